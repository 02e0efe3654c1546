"""Text that a file system takes."""

from gigpo_lightning.text import folder_name


class TestAFoldersName:
    def test_the_order_of_overrides_is_none_of_it(self):
        one = {"seed_everything": "1", "credit": "grpo"}
        assert folder_name(one) == folder_name(dict(reversed(one.items()))) == "credit=grpo,seed_everything=1"

    def test_keys_that_end_alike_are_said_in_full(self):
        assert folder_name({"a.seed": "1", "b.seed": "2"}) == "a.seed=1,b.seed=2"

    def test_values_that_no_folder_can_have_are_told_apart(self):
        names = {folder_name({"splits": value}) for value in ("[a, b]", "[a b]", "[a: b]")}
        assert len(names) == 3
        assert all(name.startswith("splits=-a-b-,") for name in names)

    def test_a_long_one_keeps_what_is_short(self):
        long = {f"key_{index}": "x" * 40 for index in range(9)}
        names = [folder_name(long | {"seed": "3", "key_0": value}) for value in ("x" * 40, "y" * 40)]
        assert names[0] != names[1]
        assert all(len(name) <= 150 and ",seed=3," in name for name in names)
