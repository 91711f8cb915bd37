import pytest

from cli.embedded.wheel import _package
from shared.errors import InvalidSetting


def test_a_package_that_is_missing_is_told_with_what_installs_it() -> None:
    with pytest.raises(InvalidSetting, match=r"no-such-thing is not installed.*`make up`"):
        _package("no_such_thing", "no-such-thing")
