"""The transparency log. Here: intake. An event is written with what it tells of, or neither happens."""
