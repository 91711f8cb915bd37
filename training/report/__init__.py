"""The evaluation report: its sections as numbers, its figures, its page, its card."""
