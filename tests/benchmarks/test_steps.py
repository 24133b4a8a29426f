"""The steps that are timed are those of the settings."""

import pytest

from benchmarks.settings import Settings
from benchmarks.steps import Trainer, held_on_devices, pretrain_task, without_augmentation


@pytest.mark.parametrize("bare", [False, True])
def test_layers_in_one_loop_are_compiled_once(bare):
    products = {}
    for scan in (False, True):
        settings = Settings.smoke(scan_layers=scan)
        task = pretrain_task(settings, held_on_devices(settings, settings.batch_size))
        if bare:
            task = without_augmentation(task, settings)
        products[scan] = Trainer(task, settings).program.call.as_text().count(" dot(")
        task.input.batches.close()
    assert products[True] < 0.7 * products[False]  # four layers and a decoder of one


@pytest.mark.parametrize("bare", [False, True])
def test_layers_computed_again_need_less_memory(bare):
    """In a loop: XLA for CPUs takes one computation for two that are the same, whatever stands between them."""
    needed = {}
    for remat in (False, True):
        settings = Settings.smoke(scan_layers=True, remat=remat, encoder="XS/8", decoder=(64, 4, 2), batch_size=16)
        task = pretrain_task(settings, held_on_devices(settings, settings.batch_size))
        if bare:
            task = without_augmentation(task, settings)
        needed[remat] = Trainer(task, settings).program.temporary_bytes
        task.input.batches.close()
    assert needed[True] < 0.8 * needed[False]
