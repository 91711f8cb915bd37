"""Every error the system raises on purpose, in one tree.

PoxVisioError
├── Refused            the caller asked for something that cannot be; asking again changes nothing
│   ├── NotFound
│   ├── Gone
│   ├── Conflict
│   ├── InvalidSetting
│   ├── DataRefused      training data cannot be used as it is
│   └── TrainingRefused  a network cannot be trained or evaluated as asked
├── Unavailable        a part we need is away; asking again later may work
│   ├── DatabaseAway
│   ├── StorageAway
│   └── BrokerAway
├── ObjectMissing      the photo storage has no such object
├── ObjectTooLarge     the object is larger than its reader allows
└── BundleError        there is no network to answer with; nothing may be made up instead
    ├── BundleMissing
    ├── BundleAltered
    ├── EngineRefused
    └── ParityFailed

HTTP status codes are chosen in ``web/problems.py`` alone.
"""


class PoxVisioError(Exception):
    """Base of every error raised on purpose; its text is for people."""


class Refused(PoxVisioError):
    """The request cannot be granted, now or later. Do not retry."""


class NotFound(Refused):
    """There is no such thing for this tenant. Do not retry."""


class Gone(Refused):
    """It was there and has been deleted, for good. Do not retry."""


class Conflict(Refused):
    """The thing is in a state that does not allow this. Do not retry unchanged."""


class TrainingRefused(Refused):
    """A network cannot be trained or evaluated as asked; the text says what to change. Do not retry unchanged."""


class InvalidSetting(Refused):
    """A setting is missing or wrong; the process must not start. Do not retry."""


class DataRefused(Refused):
    """A folder, archive or manifest of training data is not what it must be. Do not retry unchanged."""


class Unavailable(PoxVisioError):
    """A part we need is out of reach. Retry later."""


class DatabaseAway(Unavailable):
    """PostgreSQL is out of reach. Retry later."""


class StorageAway(Unavailable):
    """The photo storage is out of reach or full. Retry later."""


class BrokerAway(Unavailable):
    """The Celery broker is out of reach; the sweep will send the token again."""


class ObjectMissing(PoxVisioError):
    """There is no object with this key in the photo storage."""


class ObjectTooLarge(PoxVisioError):
    """The object in the photo storage is larger than its reader allows."""


class BundleError(PoxVisioError):
    """The model cannot be served. Jobs wait until it can."""


class BundleMissing(BundleError):
    """There is no bundle where the setting says. Jobs wait."""


class BundleAltered(BundleError):
    """A file of the bundle is not what its card says. Jobs wait."""


class EngineRefused(BundleError):
    """The engine cannot be built on this machine or in this process. Jobs wait."""


class ParityFailed(BundleError):
    """The compiled engine does not answer as the bundle's reference does. Jobs wait."""
