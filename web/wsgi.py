"""What the WSGI server loads: ``granian --interface wsgi web.wsgi:app``."""

from shared import logs
from shared.errors import InvalidSetting
from shared.settings import Settings
from web.app import create_app

try:
    settings = Settings.load()
except InvalidSetting as error:
    raise SystemExit(f"web: {error}") from None
logs.configure(settings.log_level)
app = create_app(settings)
