"A web server with moods, small archives in the layouts of the paper's data sets, a set of stripes, and a notebook to run."
import contextlib, hashlib, io, tarfile, threading, time, zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import numpy as np
import pytest
from PIL import Image
from segmenter.patches import scene

class Shaky(BaseHTTPRequestHandler):
    "A server that can hang up, lack ranges, or have changed its mind."
    def log_message(self, *args): pass

    def do_GET(self):
        s, asked = self.server, self.headers.get('Range')
        s.asked.append((self.path, asked, self.headers.get('If-Range')))
        if s.errors: self.send_error(s.errors.pop(0)); return
        if self.path not in s.files: self.send_error(404); return
        body = s.files[self.path]
        same = self.headers.get('If-Range') in (None, s.etag)
        start = int(asked[6:-1]) if asked and s.ranges and same else 0
        if start >= len(body) > 0:
            self.send_response(416); self.send_header('Content-Range', f'bytes */{len(body)}'); self.send_header('Content-Length', '0'); self.end_headers(); return
        self.send_response(206 if start else 200)
        if s.etag: self.send_header('ETag', s.etag)
        if start: self.send_header('Content-Range', f'bytes {start + s.shift}-{len(body) - 1}/{len(body)}')
        if s.length: self.send_header('Content-Length', str(len(body) - start))
        self.end_headers()
        body = body[start:s.stops.pop(0) if s.stops else len(body)]
        if not s.drip: self.wfile.write(body); return
        with contextlib.suppress(ConnectionError): # a byte now and then, until somebody hangs up
            for i in range(len(body)): self.wfile.write(body[i:i + 1]), time.sleep(s.drip)

@pytest.fixture
def web():
    server = ThreadingHTTPServer(('127.0.0.1', 0), Shaky)
    server.files, server.stops, server.asked, server.errors, server.etag, server.ranges, server.length, server.shift, server.drip = {}, [], [], [], '"v1"', True, True, 0, 0
    server.address = f'http://127.0.0.1:{server.server_port}'
    threading.Thread(target=server.serve_forever, args=(.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()

BODY = np.random.default_rng(0).bytes(3_000_000)
SHA1 = hashlib.sha1(BODY).hexdigest()

def names(folder): return sorted(f.name for f in folder.iterdir())

def encoded(picture, kind='PNG'):
    out = io.BytesIO()
    Image.fromarray(np.asarray(picture, np.uint8)).save(out, kind)
    return out.getvalue()

def zipped(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, 'w') as z:
        for name, data in files.items(): z.writestr(name, data)
    return path

def tarred(path, files, mode='w'):
    with tarfile.open(path, mode) as t:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            t.addfile(info, io.BytesIO(data))
    return path

def street(i, k=255):
    "An image as JPEG, and its ids below k."
    image, ids = scene(60 + 4*i, 90)
    return image, np.minimum(ids, k - 1)

ADE_COUNTS = {'images/training/*.jpg': 3, 'annotations/training/*.png': 3, 'images/validation/*.jpg': 2, 'annotations/validation/*.png': 2}, {'testing/*.jpg': 1}

def ade_archives(folder):
    files, top = {}, 'ADEChallengeData2016'
    for part, n in ('training', 3), ('validation', 2):
        for i in range(n):
            image, ids = street(i)
            files |= {f'{top}/images/{part}/ADE_{i}_{part}.jpg': encoded(image, 'JPEG'), f'{top}/annotations/{part}/ADE_{i}_{part}.png': encoded((ids + 1)*(ids != 3))}
    zipped(folder/f'{top}.zip', files | {f'{top}/objectInfo150.txt': b'x'})
    zipped(folder/'release_test.zip', {'release_test/testing/ADE_test_0.jpg': encoded(street(1)[0], 'JPEG'), 'release_test/list.txt': b'x'})
    return folder

class Full:
    "A file on a disk with so much room."
    def __init__(self, file, room): self.file, self.room = file, room
    def write(self, data):
        if self.room < len(data): raise OSError(28, 'No space left on device')
        self.room -= len(data)
        return self.file.write(data)
    def __enter__(self): return self
    def __exit__(self, *error): self.file.close()
    def __getattr__(self, name): return getattr(self.file, name)

def fill_disk(monkeypatch, module, room):
    def limited(path, mode='r', *args, **kwargs): return Full(open(path, mode), room) if 'w' in mode or 'a' in mode else open(path, mode, *args, **kwargs)
    monkeypatch.setattr(module, 'open', limited, raising=False)

def make_stripes(root, n_train=10, n_val=3, void=()):
    "A tiny data set in an any-folder layout: stripes of three kinds; the images numbered in `void` have few labels."
    rng = np.random.default_rng(0)
    for split, n in (('train', n_train), ('val', n_val)):
        for part in ('images', 'annotations'): (root/part/split).mkdir(parents=True)
        for i in range(n):
            labels = np.repeat(rng.integers(0, 3, 4), 12)[:, None].repeat(48, 1).astype(np.uint8)
            image = np.stack([labels*90 + rng.integers(0, 20, labels.shape, dtype=np.uint8)]*3, -1)
            if i in void: labels[6:] = 255
            Image.fromarray(image).save(root/'images'/split/f'{i}.png')
            Image.fromarray(labels).save(root/'annotations'/split/f'{i}.png')
    (root/'classes.txt').write_text('low\nmiddle\nhigh\n')
    return root

def make_notebook(path, *cells):
    "A notebook whose first cell holds the dials."
    import nbformat
    from nbformat.v4 import new_code_cell, new_notebook
    nb = new_notebook(cells=[new_code_cell(c) for c in cells], metadata=dict(kernelspec=dict(name='python3', display_name='python3', language='python')))
    nb.cells[0].metadata.tags = ['parameters']
    nbformat.write(nb, path)
    return path
