"""What the tests remember of presets is what Hydra makes of them, whatever was composed before."""

import pytest
from remembered_presets import set_aside

from latentmix.compose import compose
from latentmix.errors import UserError


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["model=sd35-medium", "data=folder", "data.path=x", "inversion=null_text", "launch=slurm"],
        ["experiment=fig7", "model=sd15", "n=[2,3]", "~metrics"],
        ["experiment=fig5", "inversion.steps=9"],
    ],
)
def test_a_config_is_what_hydra_composes(overrides: list[str]) -> None:
    def composed() -> object:
        try:
            return compose(overrides)
        except UserError as error:
            return str(error)

    with set_aside():
        expected = composed()
    assert composed() == expected
    compose(["seed=7", "data.classes=[star]", "model.size=32"])
    assert composed() == expected
