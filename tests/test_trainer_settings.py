"""Settings of the Trainer that no run could have are refused by name."""

import pytest

from gigpo_lightning.trainer_settings import check_trainer


@pytest.mark.parametrize("devices", [1, 8, "2", "auto", -1, "-1", [0], [0, 3], "0,1"])
def test_devices_that_a_machine_may_have_are_taken(devices):
    check_trainer({"devices": devices, "accelerator": "gpu"})


@pytest.mark.parametrize("devices", [-3, 0, 10**18, "-3", "two", [0, 0], [], [-1], "", "1,1", "null", None])
def test_devices_that_no_machine_has_are_refused_with_their_value(devices):
    with pytest.raises(ValueError, match=r"^trainer\.devices must be ") as error:
        check_trainer({"devices": devices, "accelerator": "gpu"})
    assert str(error.value).endswith(f"got {devices!r}")


@pytest.mark.parametrize("devices", [-1, [0], "0,1"])
def test_devices_of_cpus_are_a_number(devices):
    with pytest.raises(ValueError, match=r"^trainer\.devices must be a number >= 1 with trainer.accelerator 'cpu'"):
        check_trainer({"devices": devices, "accelerator": "cpu"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_epochs", 0),
        ("max_epochs", -2),
        ("max_steps", -5),
        ("num_nodes", 0),
        ("num_nodes", 10**18),
        ("check_val_every_n_epoch", 0),
        ("num_sanity_val_steps", -2),
        ("log_every_n_steps", -1),
        ("accumulate_grad_batches", 0),
        ("gradient_clip_val", float("nan")),
        ("gradient_clip_val", -1.0),
        ("limit_val_batches", 1.5),
        ("limit_train_batches", float("nan")),
        ("overfit_batches", -3),
        ("val_check_interval", 0.0),
        ("val_check_interval", -1),
        ("fast_dev_run", -1),
        ("default_root_dir", "a\0b"),
    ],
)
def test_a_number_that_means_nothing_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"^trainer.{name} must be "):
        check_trainer({name: value})


@pytest.mark.parametrize("name", ["max_epochs", "max_steps", "gradient_clip_val", "limit_val_batches"])
def test_what_may_be_left_empty_may_be_left_empty(name):
    check_trainer({name: None})


def test_training_may_go_on_without_an_end():
    check_trainer({"max_epochs": -1, "max_steps": -1, "fast_dev_run": False})
