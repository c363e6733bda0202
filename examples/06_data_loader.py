"""Read a file with PyTorch's data loader: batches of pictures and cameras, decoded in worker processes."""

from __future__ import annotations

from common import coded, save_row
from torch.utils.data import DataLoader

import lmvic_ns


def main() -> None:
    views = lmvic_ns.LmvicDataset(coded())
    loader = DataLoader(views, batch_size=2, shuffle=False, num_workers=1)
    for batch in loader:
        print(batch["name"], tuple(batch["image"].shape), "focal lengths", batch["intrinsics"][:, 0, 0].tolist())
    print(save_row("06_last_batch.png", dict(zip(batch["name"], batch["image"], strict=True))))


if __name__ == "__main__":
    main()
