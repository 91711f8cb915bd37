"""The closed sets of words that several parts must spell alike."""

from typing import Final

#: Priorities of work, the most urgent first.
LANES: Final = ("interactive", "normal", "bulk")
#: What becomes of a photo: exactly one of these.
OUTCOMES: Final = ("classified", "abstained", "rejected", "failed", "cancelled", "expired")
