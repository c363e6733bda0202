"""The demo room, cast ray by ray: boxes, pictures and spheres with photographs on them.

World axes: x right along the back wall, y away from the viewer towards it, z up; metres.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lmvic_ns.demo.textures import load_texture, sample_texture

AMBIENT = 0.5
LIGHT = (0.3, -0.4, 2.3)
NEVER = math.inf
Tint = tuple[float, float, float]


@dataclass(frozen=True)
class Texture:
    """A picture and the metres that one copy of it covers (width, height)."""

    picture: Float[Tensor, "h w 3"]
    size: tuple[float, float]

    def at(self, metres: Float[Tensor, "n 2"]) -> Float[Tensor, "n 3"]:
        """Colours at positions in metres from the picture's top left corner, u right, v down."""
        return sample_texture(self.picture, metres / metres.new_tensor(self.size))


@dataclass(frozen=True)
class Box:
    """A box turned about z; `inside` makes it a room seen from within. Six textures: -x +x -y +y -z +z."""

    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    textures: Sequence[Texture]
    turn: float = 0.0
    inside: bool = False

    def _local(self, vectors: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        cos, sin = math.cos(self.turn), math.sin(self.turn)
        return vectors @ vectors.new_tensor([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])

    def distance(self, origin: Float[Tensor, "n 3"], direction: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        """Ray parameter of the first hit (slab test), infinite where there is none."""
        start = self._local(origin - origin.new_tensor(self.centre))
        inverse = 1.0 / self._local(direction)
        half = start.new_tensor(self.half)
        first, second = (-half - start) * inverse, (half - start) * inverse
        entry = torch.minimum(first, second).amax(dim=1)
        leave = torch.maximum(first, second).amin(dim=1)
        if self.inside:
            return leave
        return torch.where((entry < leave) & (entry > 0), entry, NEVER)

    def surface(self, points: Float[Tensor, "n 3"]) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
        """Colours and unit normals (towards the seen side) at points on the box."""
        half = points.new_tensor(self.half)
        local = self._local(points - points.new_tensor(self.centre))
        axis = (local.abs() / half).argmax(dim=1)
        along = local.gather(1, axis[:, None])[:, 0]
        face = 2 * axis + (along > 0).long()
        colours = local.new_zeros(len(local), 3, dtype=torch.float32)
        for index, texture in enumerate(self.textures):
            chosen = (face == index).nonzero()[:, 0]
            if len(chosen):
                colours[chosen] = texture.at(self._face_metres(local[chosen], index))
        side = torch.sign(along) * (-1.0 if self.inside else 1.0)
        normal = torch.nn.functional.one_hot(axis, 3).to(local.dtype) * side[:, None]
        cos, sin = math.cos(self.turn), math.sin(self.turn)
        return colours, normal @ normal.new_tensor([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])

    def _face_metres(self, local: Float[Tensor, "n 3"], face: int) -> Float[Tensor, "n 2"]:
        """Metres right and down on a face as it is seen from outside: up is z on the sides, y on top and bottom."""
        across, up = ((1, 2), (0, 2), (0, 1))[face // 2]
        half = local.new_tensor(self.half)
        mirror = -1.0 if face in (0, 3, 4) else 1.0
        return torch.stack([half[across] + mirror * local[:, across], half[up] - local[:, up]], dim=1)


@dataclass(frozen=True)
class Sphere:
    """A ball with one texture laid round it by longitude and latitude."""

    centre: tuple[float, float, float]
    radius: float
    texture: Texture

    def distance(self, origin: Float[Tensor, "n 3"], direction: Float[Tensor, "n 3"]) -> Float[Tensor, "n"]:
        """Ray parameter of the first hit, infinite where there is none."""
        to_start = origin - origin.new_tensor(self.centre)
        a = (direction * direction).sum(dim=1)
        b = (to_start * direction).sum(dim=1)
        discriminant = b * b - a * ((to_start * to_start).sum(dim=1) - self.radius**2)
        near = (-b - discriminant.clamp_min(0).sqrt()) / a
        return torch.where((discriminant > 0) & (near > 0), near, NEVER)

    def surface(self, points: Float[Tensor, "n 3"]) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
        """Colours and outward unit normals at points on the sphere."""
        normal = (points - points.new_tensor(self.centre)) / self.radius
        longitude = torch.atan2(normal[:, 0], -normal[:, 1])
        metres = torch.stack([longitude, normal[:, 2].clamp(-1, 1).acos()], dim=1) * self.radius
        return self.texture.at(metres), normal


@dataclass(frozen=True)
class Room:
    """All solids of the scene."""

    solids: Sequence[Box | Sphere] = field(default_factory=list)

    def cast(
        self, origin: Float[Tensor, "n 3"], direction: Float[Tensor, "n 3"]
    ) -> tuple[Float[Tensor, "n"], Int[Tensor, "n"]]:
        """Ray parameter of the nearest hit and the index of the solid that was hit."""
        nearest = self.solids[0].distance(origin, direction)
        index = torch.zeros(len(nearest), dtype=torch.long)
        for i, solid in enumerate(self.solids[1:], start=1):
            distance = solid.distance(origin, direction)
            closer = distance < nearest
            nearest, index = torch.where(closer, distance, nearest), index.masked_fill_(closer, i)
        return nearest, index

    def colours(self, points: Float[Tensor, "n 3"], solid: Int[Tensor, "n"]) -> Float[Tensor, "n 3"]:
        """Diffuse colour in 0..1 of points on given solids, lit by one lamp without shadows."""
        result = points.new_zeros(len(points), 3, dtype=torch.float32)
        lamp = points.new_tensor(LIGHT)
        for index, shape in enumerate(self.solids):
            chosen = (solid == index).nonzero()[:, 0]
            if not len(chosen):
                continue
            seen = points[chosen]
            colour, normal = shape.surface(seen)
            towards = torch.nn.functional.normalize(lamp - seen, dim=1)
            light = AMBIENT + (1 - AMBIENT) * (normal * towards).sum(dim=1).clamp_min(0)
            result[chosen] = colour * light[:, None].to(torch.float32)
        return result.clamp(0, 1)


def demo_room() -> Room:
    """A room of 4 x 4 x 2.6 m: pictures on the walls, a table, boxes and two balls on and beside it."""

    def texture(name: str, width: float, height: float, tint: Tint = (1.0, 1.0, 1.0)) -> Texture:
        return Texture(load_texture(name, tint=tint), (width, height))

    bricks = texture("bricks", 1.3, 1.3, tint=(1.25, 1.0, 0.85))
    plaster = texture("gravel", 2.0, 2.0, tint=(1.1, 1.15, 1.2))
    carpet = texture("grass", 1.4, 1.4, tint=(1.1, 1.3, 0.9))
    wood = texture("gravel", 0.9, 0.3, tint=(1.2, 0.85, 0.55))

    def picture(name: str, x: float, z: float, width: float, height: float) -> Box:
        """A framed picture on the back wall, 4 cm thick."""
        face = texture(name, width, height)
        return Box((x, 1.96, z), (width / 2, 0.04, height / 2), [wood, wood, face, wood, wood, wood])

    def side_picture(name: str, side: float, y: float, z: float, width: float, height: float) -> Box:
        """The same on the left (-1) or right (+1) wall."""
        face = texture(name, width, height)
        return Box((1.96 * side, y, z), (0.04, width / 2, height / 2), [face, face, wood, wood, wood, wood])

    def block(
        name: str,
        at: tuple[float, float, float],
        half: float,
        turn: float,
        tint: tuple[float, float, float] = (1, 1, 1),
    ) -> Box:
        face = texture(name, 2 * half, 2 * half, tint=tint)
        return Box((at[0], at[1], at[2] + half), (half, half, half), [face] * 6, turn)

    return Room(
        [
            Box((0, 0, 1.3), (2, 2, 1.3), [plaster, plaster, plaster, bricks, carpet, plaster], inside=True),
            picture("coffee", -1.05, 1.55, 1.2, 0.8),
            picture("cat", 0.85, 1.6, 1.35, 0.9),
            side_picture("rocket", -1, 0.6, 1.4, 1.35, 0.9),
            side_picture("page", 1, 0.5, 1.4, 1.5, 0.75),
            Box((0.1, 0.75, 0.34), (0.85, 0.45, 0.34), [wood, wood, wood, wood, wood, wood], turn=0.12),
            block("astronaut", (-0.3, 0.75, 0.68), 0.21, 0.5),
            block("galaxies", (0.62, 0.62, 0.68), 0.14, -0.4, (4.0, 3.5, 4.0)),
            block("page", (-1.35, 1.2, 0.0), 0.3, 0.25),
            Sphere((0.25, 0.95, 0.88), 0.2, texture("moon", 1.0, 0.63, tint=(1.5, 1.3, 1.0))),
            Sphere((1.3, 0.2, 0.3), 0.3, texture("cat", 0.94, 0.94)),
        ]
    )
