"""Looking through the text of requests for personal data, and what follows from what was found."""

from kasbah.residency.classification.looking import LONGEST, UNREAD, look, text_of
from kasbah.residency.classification.raising import raised, summary

__all__ = ["LONGEST", "UNREAD", "look", "raised", "summary", "text_of"]
