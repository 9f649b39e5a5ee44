"""Which sizes a run can have: those that both the autoencoder's stride and the model's patches divide."""

from collections.abc import Callable, Iterable

Shape = tuple[int, int, int]
LatentShape = Callable[[int, int, int], tuple[int, int, int, int]]
CheckShape = Callable[[int, int, int], int]


def check_shape(shape: Shape, latent_shape: LatentShape, model: CheckShape, what: str) -> None:
    """Passes if the autoencoder and the model can take T x H x W pixels.

    Args:
        shape: of the pixels.
        latent_shape: the autoencoder's; pixels to (C, t, h, w).
        model: the backbone's `check_shape`; latents to visual tokens.
        what: has that shape, for the message.

    Raises:
        ValueError: if they cannot; with the nearest frame numbers that both take, where it is the frames.
    """
    try:
        model(*latent_shape(*shape)[1:])
    except ValueError as error:
        said = f"{what} of {' x '.join(map(str, shape))} pixels: {error}"
        raise ValueError(said + _frames_that_do(shape, latent_shape, model)) from error


def _frames_that_do(shape: Shape, latent_shape: LatentShape, model: CheckShape) -> str:
    frames, height, width = shape
    if frames == 1:
        return ""

    def do(number: int) -> bool:
        try:
            return model(*latent_shape(number, height, width)[1:]) > 0
        except ValueError:
            return False

    if do(frames):
        return ""
    below = next((n for n in range(frames - 1, 1, -1) if do(n)), None)
    above = next((n for n in range(frames + 1, 2 * frames + 64) if do(n)), None)
    near = [str(n) for n in (below, above) if n is not None]
    return f". Clips of {' or '.join(near)} frames can be taken" if near else ""


def check_multiple(multiple: int, stride: Shape) -> None:
    """Raises ValueError if heights and widths that are multiples of `multiple` need not be whole latents."""
    if multiple % stride[1] or multiple % stride[2]:
        raise ValueError(
            f"data.multiple {multiple} is not a multiple of the autoencoder's stride {stride[1]} x {stride[2]}: "
            f"set --data.multiple to that stride times the model's patch size (stride {stride[1]} and patches of 2: "
            f"{2 * stride[1]})"
        )


def check_shapes(shapes: Iterable[Shape], latent_shape: LatentShape, model: CheckShape) -> None:
    """`check_shape` of every shape that a sample can have."""
    for shape in shapes:
        check_shape(shape, latent_shape, model, "samples")


def check_shares(**shares: float) -> None:
    """Refuse settings of the data that are no share.

    Raises:
        ValueError: naming setting and number.
    """
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"data.{name} must lie in [0, 1], got {share}")


def check_counts(least: int, **counts: int) -> None:
    """Refuse settings of the data below the least that makes sense.

    Raises:
        ValueError: naming setting and number.
    """
    for name, number in counts.items():
        if number < least:
            raise ValueError(f"data.{name} must be at least {least}, got {number}")


def check_clips_and_colours(fps: float, background: tuple[int, int, int], decode_timeout: float | None) -> None:
    """Refuse a frame rate, a colour or a time that is none.

    Raises:
        ValueError: naming setting and number.
    """
    if fps <= 0:
        raise ValueError(f"data.fps must be positive, got {fps}")
    if decode_timeout is not None and decode_timeout <= 0:
        raise ValueError(f"data.decode_timeout must be positive, got {decode_timeout}")
    if not all(0 <= value <= 255 for value in background):
        raise ValueError(f"data.background must be red, green and blue within 0 and 255, got {background}")
