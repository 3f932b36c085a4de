"""Feature networks: uint8 images in, one vector per image out.

`inception` and any open_clip model are the field's own networks and need their weights; `embedded` ones come with
latentmix and measure the embedded world without downloads. Their numbers are named differently (`fd_embedded`, not
`fid`), because a Fréchet distance means nothing without the network that it was taken in.
"""

from torch import Tensor, nn
from torch.nn import functional


class Classifier(nn.Module):
    """The embedded classifier of the drawn shapes; its 64 pooled activations serve as features, as Inception's do."""

    WIDTH = 64

    def __init__(self, classes: int) -> None:
        super().__init__()

        def level(width: int, out: int, kernel: int, stride: int) -> list[nn.Module]:
            return [nn.Conv2d(width, out, kernel, stride, kernel // 2), nn.GroupNorm(8, out), nn.SiLU()]

        self.body = nn.Sequential(
            *level(3, 32, 7, 2),
            *level(32, 64, 3, 2),
            *level(64, 64, 3, 1),
            *level(64, 128, 3, 2),
            *level(128, 128, 3, 1),
            *level(128, self.WIDTH, 3, 1),
        )
        self.head = nn.Linear(self.WIDTH, classes)

    def features(self, x: Tensor) -> Tensor:
        """[B, 3, 64, 64] in [-1, 1] -> [B, 64]."""
        return functional.adaptive_avg_pool2d(self.body(x), 1).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes]."""
        return self.head(self.features(x))
