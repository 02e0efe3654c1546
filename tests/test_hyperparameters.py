"""A configuration as flat hyperparameters."""

from gigpo_lightning.hyperparameters import flattened


def test_a_class_has_the_name_of_its_place_and_its_arguments_stand_below():
    credit = {"class_path": "a.GiGPO", "init_args": {"grouping": {"class_path": "a.Exact"}, "scale_by_std": True}}
    assert flattened({"model": {"class_path": "m.Module", "init_args": {"credit": credit, "rate": 0.5}}}) == {
        "model": "m.Module",
        "model/credit": "a.GiGPO",
        "model/credit/grouping": "a.Exact",
        "model/credit/scale_by_std": True,
        "model/rate": 0.5,
    }


def test_classes_of_a_list_are_told_apart_by_their_names_and_equal_ones_by_numbers():
    entries = [{"class_path": "a.Export", "init_args": {"every": every}} for every in (1, 2)]
    assert flattened({"callbacks": [*entries, {"class_path": "b.Other"}]}) == {
        "callbacks/Export": "a.Export",
        "callbacks/Export/every": 1,
        "callbacks/Export_2": "a.Export",
        "callbacks/Export_2/every": 2,
        "callbacks/Other": "b.Other",
    }


def test_what_is_empty_is_left_out_and_other_lists_are_text():
    assert flattened({"a": None, "b": [], "c": {}, "d": ["x", 1], "e": [{"seed": 1}]}) == {
        "d": "['x', 1]",
        "e/0/seed": 1,
    }
