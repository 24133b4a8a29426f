"""Number of clusters that stand for the inattentive patches: K_c; 0 drops those patches.

The paper uses 4. With 0 the later layers and the loss do not see the background at all; clustering has to do better
than that. More clusters approximate the discarded patches better, and bring more of the background into the loss. "MAE,
clustered" shows the approximation alone.
"""

SEEDS = (0, 1, 2)


def get_sweep() -> dict[str, dict]:
    return {
        f"{count} clusters": {"model.num_clusters": count, "match.clustered": True} for count in (0, 1, 2, 4, 8, 16, 32)
    }
