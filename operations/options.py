"""Kinds of values that several commands take as options."""

import click


class Speed(click.ParamType[float]):
    """Times the original pace, as ``1``, ``200`` or ``200x``; ``full`` or ``0`` is flat out: 0."""

    name = "speed"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value)
        try:
            speed = 0.0 if text == "full" else float(text.removesuffix("x"))
        except ValueError:
            speed = -1.0
        if not 0 <= speed < 1e6:
            self.fail(
                f"{value!r} is no speed; write 1 for the original pace, 200 or 200x for faster, or full",
                param,
                ctx,
            )
        return speed
