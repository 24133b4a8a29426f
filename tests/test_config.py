import functools
import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags

from scemae_jax import config as configuration
from scemae_jax.systems.sce_mae import settings
from scemae_jax.systems.sce_mae.stages import SYSTEM

CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.fixture
def from_command_line(monkeypatch):
    """Gives the config that main.py's flags would."""

    def parse(*overrides):
        arguments = ["main", f"--config={CONFIGS / 'ytf68.py'}:tiny", *overrides]
        monkeypatch.setattr("sys.argv", arguments)  # where config_flags looks for overrides
        values = flags.FlagValues()
        holder = config_flags.DEFINE_config_file("config", lock_config=True, flag_values=values)
        values(arguments)
        return holder.value

    return parse


def changed(**fields):
    """The default config with `section__field=value`."""
    config = settings.default()
    with config.unlocked():
        config.update_from_flattened_dict({name.replace("__", "."): value for name, value in fields.items()})
    return config


def test_overrides(from_command_line):
    config = from_command_line("--config.pretrain.augment.crop_scale=(0.5,0.7)", "--config.refine.temperature=0.2")
    assert config.pretrain.augment.crop_scale == (0.5, 0.7)
    assert config.refine.temperature == 0.2
    assert configuration.architecture(config).backbone.encoder == "XS/8"


def test_what_no_override_may_be(from_command_line):
    with pytest.raises((AttributeError, KeyError), match='Did you mean "batch_size"'):
        from_command_line("--config.pretrain.batch_sise=4")
    with pytest.raises(flags.IllegalFlagValueError, match="batch_size"):
        from_command_line("--config.pretrain.batch_size=many")


VARIANTS = {
    "ablation": ("t8", "s8", "b8"),
    "celeba": ("t8", "s8", "b8"),
    "evaluation": ("t8,mafl", "s8,aflw_m", "b8,aflw_r", "s8,three_hundred_w"),
    "folder": ("full", "small"),
    "quickstart": ("pretrained", "scratch"),
    "ytf68": ("tiny", "t8", "s8"),
}


def test_every_config_file_is_tested():
    assert {path.stem for path in CONFIGS.glob("*.py")} == VARIANTS.keys()


@pytest.mark.parametrize(("name", "variant"), [(name, v) for name, variants in VARIANTS.items() for v in variants])
def test_configs_describe_networks_that_can_be_built(name, variant):
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    config = module.get_config(variant)
    settings.check(config)
    assert hash(configuration.architecture(config)) == hash(configuration.architecture(config))
    trace(configuration.architecture(config))


@functools.cache
def trace(architecture):
    """Raises where the networks cannot be built; once for all configs of the same."""
    patches = (96 // architecture.backbone.variant.patch_size) ** 2
    images, noise = np.zeros((2, 96, 96, 3), np.float32), np.zeros((2, patches), np.float32)
    jax.eval_shape(architecture.build_mae().init, jax.random.key(0), images, noise)
    jax.eval_shape(architecture.build_carb().init, jax.random.key(0), images)


def test_the_default_is_the_paper():
    architecture = configuration.architecture(settings.default())
    assert (architecture.backbone.encoder, architecture.carb.projection) == ("S/8", 128)
    assert architecture.backbone.positions == "sincos"
    carb, decoder = architecture.carb, architecture.decoder
    assert (carb.split_layer, carb.attentive_fraction, carb.num_clusters) == (3, 0.1, 4)
    assert (decoder.width, decoder.depth, decoder.heads) == (512, 8, 16)
    stage = settings.default().pretrain
    assert (stage.batch_size, stage.learning_rate, stage.betas) == (512, 3e-4, (0.9, 0.95))
    assert (stage.weight_decay, stage.epochs, stage.epochs * stage.warmup) == (0.05, 400, 40)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"data__normalisation": "none"},
            r"config\.data\.normalisation is 'none': choose one of \['imagenet', 'faces'\]",
        ),
        ({"dtype": "float16"}, r"config\.dtype is 'float16': choose 'float32' or 'bfloat16'"),
        ({"model__encoder": "XL/8"}, "unknown encoder 'XL/8'"),
        ({"model__encoder": "S/5"}, "patches of 5x5"),
        ({"model__density": "peaks"}, "density is 'peaks'"),
        ({"model__split_layer": 12}, "split_layer is 12"),
        ({"model__num_clusters": 140}, "num_clusters is 140"),
    ],
)
def test_networks_that_cannot_be_built(fields, message):
    def build(images):
        return configuration.architecture(changed(**fields)).build_carb().init(jax.random.key(0), images)

    with pytest.raises(ValueError, match=message):
        jax.eval_shape(build, np.zeros((1, 96, 96, 3), np.float32))


def test_normalisation():
    image = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), np.uint8)
    architecture = configuration.architecture(changed(data__normalisation="faces"))
    expected = (image / 255 - [0.5084, 0.4224, 0.3769]) / [0.2599, 0.2371, 0.2323]
    np.testing.assert_allclose(architecture.backbone.normalise(image), expected, atol=1e-5)
    np.testing.assert_allclose(architecture.backbone.normalise(image / np.float32(255)), expected, atol=1e-5)


def test_stages():
    assert settings.default().stages == ("pretrain", "refine", "match", "detect", "report", "export")
    for stages in ((), ("match",), ("pretrain", "export"), tuple(SYSTEM.by_name)):
        SYSTEM.check_config(changed(stages=stages))
    with pytest.raises(ValueError, match=r"config\.stages names \['train'\]: choose from pretrain, refine"):
        SYSTEM.check_config(changed(stages=("pretrain", "train")))
    for stages in (("refine", "pretrain"), ("match", "match")):
        with pytest.raises(ValueError, match="the order is pretrain, refine, match, detect, few_shot, represent"):
            SYSTEM.check_config(changed(stages=stages))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data__test_split": "tset"}, r"data\.test_split names \['tset'\]: choose from train, validation, test, unl"),
        ({"data__train_splits": ("train", "trial")}, r"config\.data\.train_splits names \['trial'\]"),
        ({"model__positions": "rotary"}, r"config\.model\.positions is 'rotary': choose one of sincos, learned"),
        ({"detect__stride": 3}, r"config\.detect\.stride is 3: choose a divisor of the patch size 8"),
        ({"few_shot__stride": 3}, r"config\.few_shot\.stride is 3: choose a divisor of the patch size 8"),
        ({"model__window": 100}, r"config\.model\.window is 100: choose a multiple of the patch size 8"),
        ({"model__window": 144}, "window is 144 and image_size 136: choose a window from 1"),
        ({"model__image_size": 135}, "window is 96 and image_size 135: one is odd"),
        (
            {"model__window": 128},
            "match.baselines: the patches of raw pixels reach 7 .* leaves 4 of",
        ),
        ({"model__window": 136, "match__baselines": False}, r"config\.match\.stride is 4: .* shifted by 2, .* leave 0"),
        ({"few_shot__counts": (5, 0)}, r"config\.few_shot\.seeds is 5 and counts \(5, 0\): at least 1"),
        ({"few_shot__seeds": 0}, r"config\.few_shot\.seeds is 0"),
        ({"few_shot__heads": ("linear", "round")}, r"heads is \('linear', 'round'\): choose from prior_work, plain"),
        ({"few_shot__heads": ()}, r"config\.few_shot\.heads is \(\): choose from"),
        ({"detect__cosine_epochs": 80.0}, r"config\.detect\.cosine_epochs is 80 and epochs 200: the rate cannot fall"),
        ({"detect__cosine_epochs": 80.0, "detect__epochs": 0.0}, r"cosine_epochs is 80 and epochs 0"),
        ({"detect__projected_weight": 0.0}, r"config\.detect\.projected_weight is 0\.0: it must be positive"),
        ({"represent__stride": 3}, r"config\.represent\.stride is 3: choose a divisor of the patch size 8"),
        ({"represent__landmarks": 7}, r"config\.represent\.landmarks is 7: choose one of 5, 68"),
        ({"represent__repeats": 0}, r"config\.represent\.repeats is 0 and perplexity 30\.0: both must be positive"),
        ({"represent__perplexity": 0.0}, r"perplexity 0\.0: both must be positive"),
    ],
)
def test_fields_that_do_not_exist_or_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        settings.check(changed(**fields))


def test_the_hash_changes_with_every_field_but_the_stages():
    config = settings.default()
    assert configuration.config_hash(config) == configuration.config_hash(changed(stages=("match",)))
    variants = [
        config,
        changed(seed=1),
        changed(pretrain__augment__flip=False),
        changed(refine__temperature=0.11),
        changed(data__root="faces"),
    ]
    assert len({configuration.config_hash(variant) for variant in variants}) == len(variants)


def test_differences():
    old = configuration.plain(settings.default())
    new = changed(stages=("match",), refine__temperature=0.2, pretrain__augment__crop_scale=(0.5, 0.9))
    lines = configuration.differences(old, configuration.plain(new))
    assert lines == {
        "pretrain.augment.crop_scale": "config.pretrain.augment.crop_scale: [0.3, 0.9] there, [0.5, 0.9] now",
        "refine.temperature": "config.refine.temperature: 0.1 there, 0.2 now",
    }
    assert configuration.differences(old, configuration.plain(settings.default())) == {}
    del old["refine"]["temperature"]
    lines = configuration.differences(old, configuration.plain(settings.default()))
    assert lines["refine.temperature"] == "config.refine.temperature: None there, 0.1 now"


def test_steps():
    stage = changed(pretrain__epochs=2.5, pretrain__batch_size=8).pretrain
    assert configuration.num_steps(stage, 100) == 31
    assert configuration.num_steps(stage, 1) == 1
    stage.steps = 7
    assert configuration.num_steps(stage, 100) == 7
