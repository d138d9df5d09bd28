"""PDF files and videos made by hand, so that what they hold is known."""

import io
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image


def pdf(*pages, size=(300, 200), encrypted=False) -> bytes:
    """A PDF whose pages hold these texts, Helvetica of 20 points, 100 points from the left and 50 from the top."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>", b"", b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    kids = []
    for text in pages:
        stream = f"BT /F1 20 Tf 100 {size[1] - 50} Td ({text}) Tj ET".encode()
        kids.append(len(objects) + 1)
        objects.append(f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {size[0]} {size[1]}] /Contents {len(objects) + 2} "
                       "0 R /Resources << /Font << /F1 3 0 R >> >> >>".encode())  # fmt: skip
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream))
    objects[1] = f"<< /Type /Pages /Count {len(kids)} /Kids [{' '.join(f'{kid} 0 R' for kid in kids)}] >>".encode()
    lock = b""
    if encrypted:
        objects.append(b"<< /Filter /Standard /V 1 /R 2 /P -4 /O <" + b"11" * 32 + b"> /U <" + b"22" * 32 + b"> >>")
        lock = b" /Encrypt %d 0 R /ID [<00> <00>]" % len(objects)
    out = io.BytesIO(b"%PDF-1.4\n")
    out.seek(0, io.SEEK_END)
    places = []
    for number, data in enumerate(objects, 1):
        places.append(out.tell())
        out.write(b"%d 0 obj\n%s\nendobj\n" % (number, data))
    table = out.tell()
    out.write(b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1))
    out.writelines(b"%010d 00000 n \n" % place for place in places)
    out.write(b"trailer << /Size %d /Root 1 0 R%s >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, lock, table))
    return out.getvalue()


def scan(path: Path, picture: Image.Image) -> None:
    """A PDF of one page that is a picture."""
    picture.convert("RGB").save(path, "PDF", resolution=72)


def video(path: Path, shots, rate=10, size=(96, 64), begins=0.0) -> None:
    """shots: (colour, seconds), each a square on a ground of that colour, moving a little; begins: the first time
    stamp, in seconds."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stamp = round(begins * rate)
        for colour, seconds in shots:
            for i in range(round(seconds * rate)):
                pixels = np.full((size[1], size[0], 3), colour, np.uint8)
                pixels[20:40, 10 + i % 20 : 30 + i % 20] = 255 - np.array(colour)
                frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
                frame.pts, frame.time_base, stamp = stamp, Fraction(1, rate), stamp + 1
                for packet in stream.encode(frame):
                    container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
