"""The logging level of notes, between INFO and WARNING: worth knowing, but nothing to repair."""

import logging

NOTE = 25
logging.addLevelName(NOTE, "NOTE")
