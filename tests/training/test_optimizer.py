import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import torch

from scemae_jax.training import optimizer

STEPS = 20


def config(**changes):
    settings = {"learning_rate": 0.1, "warmup": 0.2, "betas": (0.9, 0.95), "weight_decay": 0.05, "clip": 0.0}
    return ml_collections.ConfigDict({**settings, **changes})


def learning_rate(step):
    """Up over 4 of 20 steps, then down half a cosine."""
    return 0.1 * (step / 4 if step < 4 else (1 + np.cos(np.pi * (step - 4) / 16)) / 2)


def parameters():
    rng = np.random.default_rng(0)
    shapes = {
        "block": {"kernel": (3, 4), "bias": (4,)},
        "norm": {"scale": (4,), "bias": (4,)},
        "token": {"cls_token": (1, 1, 4)},
    }
    return {name: {k: rng.normal(size=s).astype(np.float32) for k, s in part.items()} for name, part in shapes.items()}


def test_schedule():
    schedule = optimizer.learning_rate(config(), STEPS)
    expected = [learning_rate(step) for step in range(STEPS + 1)]
    np.testing.assert_allclose([schedule(step) for step in range(STEPS + 1)], expected, atol=1e-7)
    assert schedule(STEPS) == 0


def test_a_short_warm_up_is_one_step():
    schedule = optimizer.learning_rate(config(warmup=0.01), 5)
    expected = [0, 0.1, 0.05 + 0.05 * np.sqrt(0.5), 0.05, 0.05 - 0.05 * np.sqrt(0.5), 0]  # a cosine over 4 steps
    np.testing.assert_allclose([schedule(step) for step in range(6)], expected, atol=1e-7)


def test_without_warm_up_the_first_step_has_the_full_rate():
    schedule = optimizer.learning_rate(config(warmup=0.0), 4)
    expected = [0.1, 0.05 + 0.05 * np.sqrt(0.5), 0.05, 0.05 - 0.05 * np.sqrt(0.5), 0]
    np.testing.assert_allclose([schedule(step) for step in range(5)], expected, atol=1e-7)
    np.testing.assert_allclose(optimizer.learning_rate(config(warmup=0.0), 1)(0), 0.1, rtol=1e-6)


def test_the_rate_stays_until_the_decay_and_falls_as_the_cosine_does():
    schedule = optimizer.learning_rate(config(decay=0.5), STEPS)
    expected = [0.1 * step / 4 for step in range(4)] + [0.1] * 6
    expected += [0.05 * (1 + np.cos(np.pi * step / 10)) for step in range(11)]
    np.testing.assert_allclose([schedule(step) for step in range(STEPS + 1)], expected, atol=1e-7)
    forever = optimizer.learning_rate(config(decay=0.0), STEPS)
    np.testing.assert_allclose([forever(step) for step in (4, STEPS, 10 * STEPS)], 0.1, rtol=1e-6)
    one = optimizer.learning_rate(config(decay=0.5, warmup=0.0), 1)
    assert one(0) == np.float32(0.1)


def as_torch(params):
    return {(a, b): torch.nn.Parameter(torch.tensor(v)) for a, part in params.items() for b, v in part.items()}


def assert_ten_steps_agree(transformation, ours, reference, theirs):
    """Both take ten steps with the same random gradients, from the same weights."""
    state = transformation.init(ours)
    rng = np.random.default_rng(1)
    for step in range(10):
        gradients = {a: {b: rng.normal(size=v.shape).astype(np.float32) for b, v in p.items()} for a, p in ours.items()}
        updates, state = transformation.update(gradients, state, ours)
        ours = optax.apply_updates(ours, updates)
        for group in reference.param_groups:
            group["lr"] = learning_rate(step)
        for (a, b), weight in theirs.items():
            weight.grad = torch.tensor(gradients[a][b])
        reference.step()
    for (a, b), weight in theirs.items():
        np.testing.assert_allclose(ours[a][b], weight.detach().numpy(), atol=1e-5, err_msg=f"{a}/{b}")


def test_adamw_equals_pytorch():
    """Biases and norms do not decay, CLS does."""
    ours = parameters()
    theirs = as_torch(ours)
    decay = {("block", "kernel"), ("token", "cls_token")}
    groups = [
        {"params": [v for name, v in theirs.items() if name in decay], "weight_decay": 0.05},
        {"params": [v for name, v in theirs.items() if name not in decay], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8)
    assert_ten_steps_agree(optimizer.adamw(config(), STEPS), ours, reference, theirs)


def test_adam_l2_equals_pytorch():
    ours = parameters()
    theirs = as_torch(ours)
    reference = torch.optim.Adam(theirs.values(), betas=(0.5, 0.999), eps=1e-8, weight_decay=0.05)
    assert_ten_steps_agree(optimizer.adam_l2(config(betas=(0.5, 0.999)), STEPS), ours, reference, theirs)


def test_what_decays():
    expected = {
        "block": {"kernel": True, "bias": False},
        "norm": {"scale": False, "bias": False},
        "token": {"cls_token": True},
    }
    assert optimizer.decays(parameters()) == expected


def test_clipping_bounds_the_norm_of_all_gradients_together():
    """Adam forgets a gradient's scale, so it is its first moment that shows what went in."""
    params = {"a": jnp.zeros(2), "b": jnp.zeros(2)}
    gradients = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([0.0, 4.0])}
    for clip, scale in ((0.0, 1.0), (1.0, 0.2), (10.0, 1.0)):
        transformation = optimizer.adamw(config(clip=clip), STEPS)
        _, state = transformation.update(gradients, transformation.init(params), params)
        moment = optax.tree_utils.tree_get(state, "mu")
        np.testing.assert_allclose(moment["a"], 0.1 * scale * gradients["a"], rtol=1e-5)
        np.testing.assert_allclose(moment["b"], 0.1 * scale * gradients["b"], rtol=1e-5)
