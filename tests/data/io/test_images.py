"""Every kind of image file is read to the numbers that were written, and a bad one is an error that says why."""

from __future__ import annotations

import io
import pickle
import struct
import zlib
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from segkit.data import io as data_io
from segkit.data.io.base import ReadError
from segkit.data.io.exif import as_stored
from segkit.data.io.images import ImageFile, MaskFile, image_shape, read_image, read_mask
from segkit.data.io.tiff import tiff_pages
from segkit.data.slices import Channels

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (37, 53), dtype=np.uint8)
GREY16 = RANDOM.integers(0, 65536, (37, 53), dtype=np.uint16)
RGB = RANDOM.integers(0, 256, (37, 53, 3), dtype=np.uint8)
RGB16 = RANDOM.integers(0, 65536, (37, 53, 3), dtype=np.uint16)
INDEX = RANDOM.integers(0, 4, (37, 53), dtype=np.uint8)
FIVE = np.dstack([RGB, RGB[..., :2]])
PALETTE = np.array([[0, 0, 0], [200, 0, 0], [0, 200, 0], [9, 9, 90]], np.uint8)
BIT = RANDOM.integers(0, 2, (37, 53)).astype(bool)


def palette_image() -> Image.Image:
    image = Image.fromarray(INDEX).convert("L")
    image = Image.frombytes("P", image.size, image.tobytes())
    image.putpalette(PALETTE.reshape(-1).tolist())
    return image


def black_and_white(first: int) -> Image.Image:
    """A bit a pixel, in a palette whose index 0 is black (0) or white (255)."""
    image = Image.frombytes("P", (53, 37), (BIT if first == 0 else ~BIT).astype(np.uint8).tobytes())
    image.putpalette([first] * 3 + [255 - first] * 3)
    return image


def with_alpha(rgb: np.ndarray) -> np.ndarray:
    return np.dstack([rgb, RANDOM.integers(0, np.iinfo(rgb.dtype).max, rgb.shape[:2], dtype=rgb.dtype)])


def cv2_write(path: Path, rgb: np.ndarray) -> None:
    channels = [2, 1, 0, 3][: rgb.shape[2]] if rgb.ndim == 3 else ...
    assert cv2.imwrite(str(path), rgb[..., channels] if rgb.ndim == 3 else rgb)


def raw(data: bytes):
    return lambda path: path.write_bytes(data)


def two_gray_bmp(path: Path) -> None:
    """A byte a pixel, and a table of two colors, black and white: what ImageJ and Windows write for a mask."""
    image = Image.frombytes("P", (53, 37), BIT.astype(np.uint8).tobytes())
    image.putpalette([0, 0, 0, 255, 255, 255])
    image.save(path)


def drawn_in_alpha(colors: int) -> np.ndarray:
    return np.dstack([np.full((37, 53, colors), 200, np.uint8), BIT.astype(np.uint8) * 255])


def pillow(image: Image.Image | np.ndarray):
    def write(path: Path) -> None:
        (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path)

    return write


def tiff(array: np.ndarray, **options: object):
    return lambda path: tifffile.imwrite(path, array, **options)


def opencv(array: np.ndarray):
    return lambda path: cv2_write(path, array)


IMAGES = {
    "grey png": ("a.png", pillow(GREY), GREY),
    "grey bmp": ("a.bmp", pillow(GREY), GREY),
    "grey gif": ("a.gif", pillow(GREY), GREY),
    "grey tiff": ("a.tif", pillow(GREY), GREY),
    "grey alpha png": ("a.png", pillow(Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(GREY.T.copy()).resize((53, 37))])), GREY),
    "rgb png": ("a.png", pillow(RGB), RGB),
    "rgba png": ("a.png", pillow(with_alpha(RGB)), RGB),
    "rgb bmp": ("a.bmp", pillow(RGB), RGB),
    "rgb tiff": ("a.tiff", tiff(RGB, photometric="rgb"), RGB),
    "rgba tiff": ("a.tiff", tiff(with_alpha(RGB), photometric="rgb", extrasamples=["unassalpha"]), RGB),
    "planar rgb tiff": ("a.tif", tiff(np.moveaxis(RGB, 2, 0), photometric="rgb", planarconfig="separate"), RGB),
    "lzw tiff": ("a.tif", tiff(RGB, photometric="rgb", compression="lzw", predictor=True), RGB),
    "deflate tiled tiff": ("a.tif", tiff(GREY16, compression="zlib", tile=(16, 16)), GREY16),
    "white-is-zero tiff": ("a.tif", tiff(255 - GREY, photometric="miniswhite"), GREY),
    "16 bit png": ("a.png", opencv(GREY16), GREY16),
    "16 bit rgb png": ("a.png", opencv(RGB16), RGB16),
    "16 bit rgba png": ("a.png", opencv(with_alpha(RGB16)), RGB16),
    "16 bit tiff": ("a.tif", tiff(GREY16), GREY16),
    "big-endian 16 bit tiff": ("a.tif", tiff(GREY16, byteorder=">"), GREY16),
    "16 bit rgb tiff": ("a.tif", tiff(RGB16, photometric="rgb"), RGB16),
    "float tiff": ("a.tif", tiff((GREY / 7).astype(np.float32)), (GREY / 7).astype(np.float32)),
    "double tiff": ("a.tif", tiff(GREY / 8), (GREY / 8).astype(np.float32)),
    "int16 tiff": ("a.tif", tiff(GREY.astype(np.int16) - 100), (GREY.astype(np.float32) - 100)),
    "1 bit png": ("a.png", pillow(BIT), BIT.astype(np.uint8) * 255),
    "1 bit bmp": ("a.bmp", pillow(BIT), BIT.astype(np.uint8) * 255),
    "1 bit tiff": ("a.tif", pillow(BIT), BIT.astype(np.uint8) * 255),
    "five channels tiff": ("a.tif", tiff(FIVE, photometric="minisblack", planarconfig="contig"), FIVE),
    "palette png": ("a.png", lambda path: palette_image().save(path), PALETTE[INDEX]),
    "palette bmp": ("a.bmp", lambda path: palette_image().save(path), PALETTE[INDEX]),
    "palette gif": ("a.gif", lambda path: palette_image().save(path, optimize=False), PALETTE[INDEX]),
    "palette tiff": ("a.tif", lambda path: palette_image().save(path), PALETTE[INDEX]),
    "palette png, white first": ("a.png", lambda path: black_and_white(255).save(path), BIT.astype(np.uint8) * 255),
    "palette gif, white first": ("a.gif", lambda path: black_and_white(255).save(path), BIT.astype(np.uint8) * 255),
    "32 bit tiff": ("a.tif", tiff(GREY16.astype(np.uint32)), GREY16.astype(np.float32)),
    "webp": ("a.webp", lambda path: Image.fromarray(RGB).save(path, lossless=True), RGB),
    "pgm": ("a.pgm", pillow(GREY), GREY),
    "ppm": ("a.ppm", pillow(RGB), RGB),
    "pbm": ("a.pbm", pillow(BIT), BIT.astype(np.uint8) * 255),
    "pgm of 16 bits, with a comment": ("a.pgm", raw(b"P5\n# ImageJ\n53 37\n65535\n" + GREY16.astype(">u2").tobytes()), GREY16),
    "half float tiff": ("a.tif", tiff((GREY / 8).astype(np.float16)), (GREY / 8).astype(np.float32)),
}


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_is_read_as_it_was_written(name: str, tmp_path: Path) -> None:
    file, write, expected = IMAGES[name]
    write(tmp_path / file)
    image = read_image(tmp_path / file)
    assert image.dtype == expected.dtype
    assert image.shape == (37, 53, 1 if expected.ndim == 2 else expected.shape[2])
    assert np.array_equal(image.squeeze(), expected)
    assert image.flags.c_contiguous
    assert image_shape(tmp_path / file)[:2] == (37, 53)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_is_close_to_what_was_written(mode: str, tmp_path: Path) -> None:
    smooth = cv2.GaussianBlur(RGB, (0, 0), 8)
    Image.fromarray(smooth).convert(mode).save(tmp_path / "a.jpg", quality=98)
    image = read_image(tmp_path / "a.jpg")
    expected = np.asarray(Image.fromarray(smooth).convert("L" if mode == "L" else "RGB")).reshape(image.shape)
    assert np.abs(image.astype(int) - expected).mean() < 3


MASKS = {
    "palette png": ("m.png", lambda path: palette_image().save(path), INDEX),
    "palette png of 2 bits": ("m.png", lambda path: palette_image().save(path, bits=2), INDEX),
    "palette tiff": ("m.tif", lambda path: palette_image().save(path), INDEX),
    "palette bmp": ("m.bmp", lambda path: palette_image().save(path), INDEX),
    "palette gif": ("m.gif", lambda path: palette_image().save(path, optimize=False), INDEX),
    "grey png": ("m.png", pillow(INDEX), INDEX),
    "16 bit png": ("m.png", opencv(GREY16), GREY16),
    "16 bit tiff": ("m.tif", tiff(GREY16), GREY16),
    "32 bit tiff": ("m.tif", tiff(GREY16.astype(np.uint32) * 1000), GREY16.astype(np.uint32) * 1000),
    "float tiff of whole numbers": ("m.tif", tiff(INDEX.astype(np.float32)), INDEX.astype(np.int32)),
    "1 bit png": ("m.png", pillow(BIT), BIT.astype(np.uint8) * 255),
    "1 bit tiff, white is zero": ("m.tif", tiff(BIT), BIT.astype(np.uint8) * 255),
    "grey saved as rgb": ("m.png", pillow(np.dstack([INDEX] * 3)), INDEX),
    "grey saved as rgba": ("m.png", pillow(with_alpha(np.dstack([INDEX] * 3))), INDEX),
    "colours": ("m.png", pillow(PALETTE[INDEX]), PALETTE[INDEX]),
    "palette png, white first": ("m.png", lambda path: black_and_white(255).save(path), (~BIT).astype(np.uint8)),
    "grey gif of two values": ("m.gif", pillow(BIT.astype(np.uint8) * 255), BIT.astype(np.uint8) * 255),
    "black and white gif": ("m.gif", lambda path: black_and_white(0).save(path), BIT.astype(np.uint8) * 255),
    "white and black gif": ("m.gif", lambda path: black_and_white(255).save(path), BIT.astype(np.uint8) * 255),
    "gif all white": ("m.gif", pillow(np.full((37, 53), 255, np.uint8)), np.full((37, 53), 255, np.uint8)),
    "bmp of two grays, a byte each": ("m.bmp", two_gray_bmp, BIT.astype(np.uint8) * 255),
    "pgm of two classes": ("m.pgm", raw(b"P5 53 37 3\n" + INDEX.tobytes()), INDEX),
    "one color, drawn in alpha": ("m.png", pillow(drawn_in_alpha(3)), BIT.astype(np.uint8) * 255),
    "one gray, drawn in alpha": ("m.png", pillow(drawn_in_alpha(1)), BIT.astype(np.uint8) * 255),
    "one color, drawn in alpha, tiff": (
        "m.tif",
        tiff(drawn_in_alpha(3), photometric="rgb", extrasamples=["unassalpha"]),
        BIT.astype(np.uint8) * 255,
    ),
    "black, half transparent": ("m.png", pillow(np.full((37, 53, 4), (0, 0, 0, 128), np.uint8)), np.zeros((37, 53), np.uint8)),
    "int32 tiff": ("m.tif", tiff(GREY16.astype(np.int32)), GREY16.astype(np.int32)),
    "float tiff of almost whole numbers": ("m.tif", tiff(INDEX.astype(np.float32) * 0.9999), INDEX.astype(np.int32)),
    "double tiff of whole numbers": ("m.tif", tiff(INDEX.astype(np.float64)), INDEX.astype(np.int32)),
}


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_keeps_its_numbers(name: str, tmp_path: Path) -> None:
    file, write, expected = MASKS[name]
    write(tmp_path / file)
    mask = read_mask(tmp_path / file)
    assert mask.dtype == expected.dtype
    assert np.array_equal(mask, expected)


def test_the_content_decides_not_the_suffix(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert np.array_equal(read_image(tmp_path / "a.jpg")[..., 0], GREY)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_viewers_show_them(suffix: str, orientation: int, tmp_path: Path) -> None:
    """As Pillow turns them, image and mask alike; not where the stored grid is asked for."""
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(RGB).save(path, exif=exif)
    with Image.open(path) as image:
        seen = np.asarray(ImageOps.exif_transpose(image)).astype(int)
    assert np.abs(read_image(path) - seen).max() <= 3  # two decoders of JPEG
    assert np.array_equal(read_mask(path), read_image(path))
    assert image_shape(path) == read_image(path).shape
    for stored in (as_stored(ImageFile(path)), as_stored(Channels((ImageFile(path),)))):
        assert stored.read().shape == RGB.shape


def test_a_damaged_exif_block_turns_nothing(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(GREY).save(tmp_path / "a.jpg", exif=exif)
    data = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(data.replace(b"Exif\0\0MM", b"Exif\0\0XX").replace(b"Exif\0\0II", b"Exif\0\0XX"))
    assert read_image(tmp_path / "a.jpg").shape == (37, 53, 1)


def test_the_orientation_tag_of_a_tiff_is_ignored(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(GREY).save(tmp_path / "a.tif", exif=exif)
    assert read_image(tmp_path / "a.tif").shape == (37, 53, 1)


@pytest.mark.parametrize("kind", ["cmyk.jpg", "palette.png", "gray palette.png", "16 bit.png", "16 bit rgb.png", "alpha.png", "la.png"])
def test_the_header_gives_the_channels_that_are_read(kind: str, tmp_path: Path) -> None:
    images = {
        "cmyk.jpg": Image.fromarray(RGB).convert("CMYK"),
        "palette.png": palette_image(),
        "gray palette.png": black_and_white(255),
        "16 bit.png": Image.fromarray(GREY16),
        "alpha.png": Image.fromarray(with_alpha(RGB)),
        "la.png": Image.fromarray(GREY).convert("LA"),
    }
    path = tmp_path / kind
    images[kind].save(path) if kind in images else cv2_write(path, RGB16)
    assert image_shape(path) == read_image(path).shape


def encoded(kind: str) -> bytes:
    out = io.BytesIO()
    if kind == "palette png":
        palette_image().save(out, "PNG")
    else:
        name, *options = kind.split()
        settings = {"compression": f"tiff_{options[0]}"} if options else {}
        Image.fromarray(RGB).save(out, name, **settings)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["png", "palette png", "jpeg", "tiff", "tiff lzw", "bmp", "gif", "webp", "ppm"])
def test_a_truncated_file_is_an_error_never_half_an_image(kind: str, tmp_path: Path) -> None:
    whole = encoded(kind)
    path = tmp_path / "cut.img"
    for share in (0.05, 0.3, 0.6, 0.95):
        path.write_bytes(whole[: int(len(whole) * share)])
        for read in (read_image, read_mask):
            with pytest.raises(ReadError, match=r"cut\.img: .*(truncated|damaged)"):
                read(path)


def test_a_png_and_a_jpeg_without_their_last_bytes_are_truncated(tmp_path: Path) -> None:
    for kind, most in (("png", 14), ("palette png", 14), ("jpeg", 2)):
        for lost in range(1, most):
            (tmp_path / kind).write_bytes(encoded(kind)[:-lost])
            with pytest.raises(ReadError, match="truncated"):
                read_image(tmp_path / kind)


def test_bytes_behind_the_end_do_no_harm(tmp_path: Path) -> None:
    for kind in ("png", "jpeg"):
        (tmp_path / kind).write_bytes(encoded(kind))
        whole = read_image(tmp_path / kind)
        (tmp_path / kind).write_bytes(encoded(kind) + b"camera notes")
        assert np.array_equal(read_image(tmp_path / kind), whole)


def test_a_flipped_bit_in_a_png_is_found(tmp_path: Path) -> None:
    for place in (20, 45, len(encoded("png")) // 2):  # in the header, at the beginning of the pixels and within them
        data = bytearray(encoded("png"))
        data[place] ^= 1
        (tmp_path / "a.png").write_bytes(data)
        with pytest.raises(ReadError, match="damaged"):
            read_image(tmp_path / "a.png")


def png_claiming(rows: int, columns: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", columns, rows, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def test_a_png_is_decompressed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded, decode = [], imagecodecs.png_decode
    monkeypatch.setattr(zlib, "decompressobj", None)  # counts the rows of a damaged file alone
    monkeypatch.setattr(imagecodecs, "png_decode", lambda data: decoded.append(data) or decode(data))
    Image.fromarray(GREY).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png")[..., 0], GREY)
    (given,) = decoded
    assert len(given) > GREY.size  # its rows are not packed again


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(png_claiming(50_000, 50_000))
    with pytest.raises(ReadError, match="bomb"):
        read_image(tmp_path / "bomb.png")


def test_a_png_with_too_few_rows_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "short.png").write_bytes(png_claiming(100, 100))
    with pytest.raises(ReadError):
        read_image(tmp_path / "short.png")


def test_other_faults_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("I am no image")
    (tmp_path / "folder.png").mkdir()
    tifffile.imwrite(tmp_path / "stack.tif", np.zeros((3, 5, 5), np.uint8), photometric="minisblack")
    tifffile.imwrite(tmp_path / "soft.tif", np.full((5, 5), 0.5, np.float32))
    tifffile.imwrite(
        tmp_path / "five.tif", RANDOM.integers(0, 9, (5, 5, 5), dtype=np.uint8), photometric="minisblack", planarconfig="contig"
    )
    for name, reason in {
        "gone.png": "is missing",
        "empty.png": "zero bytes",
        "text.png": "not an image",
        "folder.png": "cannot be opened",
        "stack.tif": "3 pages, expected one: .* data=folder or data=csv",
        "soft.tif": "fractions",
        "five.tif": "5",
    }.items():
        with pytest.raises(ReadError, match=reason) as caught:
            read_mask(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("kind", ["gif", "png", "webp"])
def test_a_film_is_no_image(kind: str, tmp_path: Path) -> None:
    first = Image.fromarray(RGB)
    first.save(tmp_path / f"a.{kind}", save_all=True, append_images=[Image.fromarray(255 - RGB)])
    with pytest.raises(ReadError, match="holds 2 frames, expected one"):
        read_image(tmp_path / f"a.{kind}")


def pages(path: Path) -> Path:
    with tifffile.TiffWriter(path) as writer:
        writer.write(GREY, contiguous=False)
        writer.write(RGB16, photometric="rgb", contiguous=False)
        writer.write(INDEX[:20], contiguous=False, compression="zlib")
        writer.write(255 - GREY, photometric="miniswhite", contiguous=False)
    return path


def test_one_page_of_several(tmp_path: Path) -> None:
    path = pages(tmp_path / "a.tif")
    assert tiff_pages(path) == 4
    assert np.array_equal(ImageFile(path, page=0).read()[..., 0], GREY)
    assert np.array_equal(ImageFile(path, page=1).read(), RGB16)
    assert np.array_equal(MaskFile(path, page=2).read(), INDEX[:20])
    assert np.array_equal(ImageFile(path, page=3).read()[..., 0], GREY)
    assert np.array_equal(MaskFile(path, page=3).read(), 255 - GREY)
    assert ImageFile(path, page=2).paths == (path,)
    with pytest.raises(ReadError, match=r"has 4 pages, not a page 4"):
        ImageFile(path, page=4).read()
    with pytest.raises(ReadError, match="page 1 has 3 channels"):
        MaskFile(path, page=1).read()


def test_pages_in_inks_come_as_colours(tmp_path: Path) -> None:
    inks = [Image.fromarray(part).convert("CMYK") for part in (RGB, RGB[::-1].copy())]
    inks[0].save(tmp_path / "a.tif", save_all=True, append_images=inks[1:])
    for page, image in enumerate(inks):
        assert np.array_equal(ImageFile(tmp_path / "a.tif", page=page).read(), np.asarray(image.convert("RGB")))


def test_a_tiff_whose_last_pages_are_cut_off_is_an_error(tmp_path: Path) -> None:
    whole = pages(tmp_path / "a.tif").read_bytes()
    for share in (0.01, 0.2, 0.5, 0.9, 0.999):
        (tmp_path / "a.tif").write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(ReadError, match=r"truncated|damaged"):
            [ImageFile(tmp_path / "a.tif", page=page).read() for page in range(tiff_pages(tmp_path / "a.tif"))]
    with pytest.raises(ReadError, match="is missing"):
        tiff_pages(tmp_path / "b.tif")


def test_pixels_and_their_errors_travel_between_processes(tmp_path: Path) -> None:
    for pixels in (ImageFile(tmp_path / "a.png"), MaskFile(tmp_path / "a.png")):
        assert pickle.loads(pickle.dumps(pixels)) == pixels
        assert pixels.paths == (tmp_path / "a.png",)
    error = pickle.loads(pickle.dumps(ReadError(tmp_path / "a.png", "truncated")))
    assert (error.path, error.reason) == (tmp_path / "a.png", "truncated")
    assert str(ReadError("told by a worker")) == "told by a worker"


def test_names_with_blanks_accents_and_chinese_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "Kopf größe 胎儿 (1).png"
    Image.fromarray(GREY).save(path)
    assert np.array_equal(read_mask(path), GREY)


def test_the_public_names_of_the_folder_are_imported_when_they_are_used() -> None:
    assert data_io.ImageFile is ImageFile
    assert all(getattr(data_io, name).__module__.startswith("segkit.data.io.") for name in data_io.__all__)
    with pytest.raises(AttributeError, match="Imagefile"):
        data_io.Imagefile  # noqa: B018
