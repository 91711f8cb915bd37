"""What the WSGI server loads: ``granian --interface wsgi web.wsgi:app``."""

from shared import logs
from shared.settings import Settings
from web.app import create_app

settings = Settings.load()
logs.configure(settings.log_level)
app = create_app(settings)
