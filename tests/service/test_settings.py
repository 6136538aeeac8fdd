"""Every knob, bounded and documented."""

import pytest

from service.errors import ConfigurationError
from service.settings import Settings, variables


def test_the_defaults_need_no_environment_and_listen_on_loopback():
    settings = Settings.from_env({})
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)


def test_a_variable_is_read_and_the_command_line_wins_over_it():
    environ = {"ISOGLOSS_PORT": "9001", "ISOGLOSS_HOST": "0.0.0.0", "PATH": "/bin"}
    settings = Settings.from_env(environ, port=7, host=None)
    assert (settings.port, settings.host) == (7, "0.0.0.0")


def test_an_unknown_variable_with_our_prefix_is_an_error_that_names_it():
    with pytest.raises(ConfigurationError, match="ISOGLOSS_MAX_ITMES is not a setting"):
        Settings.from_env({"ISOGLOSS_MAX_ITMES": "3"})


def test_every_fault_is_named_with_its_value_at_once():
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_env({"ISOGLOSS_PORT": "99999", "ISOGLOSS_DEVICE": "tpu"})
    assert "ISOGLOSS_PORT='99999'" in caught.value.detail
    assert "ISOGLOSS_DEVICE='tpu'" in caught.value.detail


def test_a_secret_comes_from_a_file_and_is_never_shown(tmp_path):
    path = tmp_path / "key"
    path.write_text("s3cret\n")
    settings = Settings.from_env({"ISOGLOSS_QDRANT_API_KEY_FILE": str(path)})
    assert settings.qdrant_api_key is not None
    assert settings.qdrant_api_key.get_secret_value() == "s3cret"
    assert "s3cret" not in str(settings.redacted())


def test_a_secret_file_that_cannot_be_read_is_an_error_that_names_variable_and_path(tmp_path):
    with pytest.raises(
        ConfigurationError, match=r"ISOGLOSS_CATALOG_URL_FILE: cannot read .*nowhere"
    ):
        Settings.from_env({"ISOGLOSS_CATALOG_URL_FILE": str(tmp_path / "nowhere")})


def test_only_secrets_have_a_file_variant():
    with pytest.raises(ConfigurationError, match="ISOGLOSS_PORT_FILE is not a setting"):
        Settings.from_env({"ISOGLOSS_PORT_FILE": "/dev/null"})


def test_every_variable_is_documented():
    assert len(variables()) == len(Settings.model_fields)
    for variable, _default, text in variables():
        assert variable.startswith("ISOGLOSS_")
        assert text.endswith("."), variable
