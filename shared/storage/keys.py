"""Under which keys a job's photos are stored: originals below ``incoming/``, working copies below ``copies/``."""

from typing import Final
from uuid import UUID

INCOMING: Final = "incoming"


def originals_of(job_id: UUID) -> str:
    """Return the folder of a job's originals."""
    return f"{INCOMING}/{job_id.hex}"


def original_key(job_id: UUID, ordinal: int) -> str:
    """Return where the photo at this place of the job is stored as it came."""
    return f"{originals_of(job_id)}/{ordinal:05d}"


def archive_key(job_id: UUID) -> str:
    """Return where the archive that the job was sent as lies until it is expanded."""
    return f"{originals_of(job_id)}/archive"


def copies_of(job_id: UUID) -> str:
    """Return the folder of a job's working copies."""
    return f"copies/{job_id.hex}"


def copy_key(job_id: UUID, image_id: UUID) -> str:
    """Return where an image's working copy is stored."""
    return f"{copies_of(job_id)}/{image_id.hex}.jpg"
