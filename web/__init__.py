"""The web side: takes photos in, answers questions about jobs, and never looks into a picture."""
