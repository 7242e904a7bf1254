"""Looking through the text of requests for personal data, and what follows from what was found."""

from kasbah.residency.classification.looking import UNREAD, look, text_of
from kasbah.residency.classification.raising import raised, summary
from kasbah.residency.classification.text import JOINT, LONGEST

__all__ = ["JOINT", "LONGEST", "UNREAD", "look", "raised", "summary", "text_of"]
