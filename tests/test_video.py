"Films: reading, writing, flicker, the way through a model, the command."
import os, threading
from fractions import Fraction
from pathlib import Path
import numpy as np, pytest, torch
from PIL import Image
from segmenter import cli, frames as films, video
from segmenter.flicker import Flicker, Smoother, flow_between, warped
from segmenter.frames import Clip, FilmFrame, FrameWriter, open_clip, read_frames
from segmenter.patches import SCENE_CLASSES, scene
from segmenter.predict import predict
from segmenter.video import Behind, ahead, davis_sequences, segment_davis, segment_video
from segmenter.windows import PatchColours

av = pytest.importorskip('av')
VTEST = Path('/usr/share/doc/opencv-doc/examples/data/vtest.avi')
WIDE, LABELS = scene(64, 160)
H, W, N = 64, 96, 12

def picture(i): return np.ascontiguousarray(WIDE[:, 4*i:4*i + W])

@pytest.fixture(scope='module')
def model(): return PatchColours(WIDE, LABELS, SCENE_CLASSES, patch_size=4, window_size=64, im_size=64)

@pytest.fixture
def folder(tmp_path):
    (tmp_path/'frames').mkdir()
    for i in range(N): Image.fromarray(picture(i)).save(tmp_path/f'frames/f{i:03}.png')
    return tmp_path/'frames'

def write_film(path, n=N, rate=Fraction(12), sound=None, kind=None, codec='libx264', size=(W, H)):
    "A film made by PyAV alone, with sound of one codec if wanted."
    out = av.open(str(path), 'w', format=kind)
    v = out.add_stream(codec, rate=rate)
    v.width, v.height, v.pix_fmt = *size, 'yuv420p'
    a = out.add_stream(sound, rate=48000) if sound else None
    if not n: out.start_encoding()
    for i in range(n):
        f = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture(i % 16)[:size[1], :size[0]]), format='rgb24')
        f.pts, f.time_base = i, 1/rate
        out.mux(v.encode(f))
    for i in range(int(n/rate*50) if sound else 0):
        layout = dict(format='fltp', layout='mono')
        f = av.AudioFrame.from_ndarray(np.full((1, 960), .01*(i % 10), np.float32), **layout)
        f.sample_rate, f.pts, f.time_base = 48000, 960*i, Fraction(1, 48000)
        out.mux(a.encode(f))
    if a: out.mux(a.encode())
    out.mux(v.encode())
    out.close()
    return path

def packets(path, kind='audio'):
    with av.open(str(path)) as c: return [(float(p.pts*p.time_base), bytes(p)) for p in c.demux(getattr(c.streams, kind)[0]) if p.size]

def leftovers(folder): return [f.name for f in Path(folder).iterdir() if f.name.endswith('.part')]

# --- reading

def test_a_folder_is_a_clip(folder):
    clip = open_clip(folder, 30000/1001)
    assert (clip.width, clip.height, clip.n_frames, clip.rate) == (W, H, N, Fraction(30000, 1001))
    for f in read_frames(clip): assert (f.image == picture(f.number)).all()

def test_a_file_is_a_clip(tmp_path):
    clip = open_clip(write_film(tmp_path/'a.mp4', sound='aac'))
    assert (clip.width, clip.height, clip.n_frames, clip.rate, clip.sound) == (W, H, N, 12, 'aac')
    found = list(read_frames(clip))
    assert [f.number for f in found] == list(range(N)) and [f.time for f in found] == [Fraction(i, 12) for i in range(N)]

@pytest.mark.parametrize('start, end, every', [(0, None, 1), (0, None, 5), (.5, None, 1), (.25, .75, 2), (0, .3, 1), (.9, 5, 1)])
def test_a_part_has_the_frames_of_its_time_and_as_many_as_announced(folder, tmp_path, start, end, every):
    for clip in (open_clip(folder, 12), open_clip(write_film(tmp_path/'a.mp4'))):
        wanted = [i for i in range(N) if i/12 >= start and (end is None or i/12 < end)][::every]
        assert [f.number for f in read_frames(clip, start, end, every)] == wanted
        assert clip.count(start, end, every) == len(wanted)

def test_a_middle_is_reached_by_a_seek_and_keeps_its_numbers(tmp_path):
    clip = open_clip(write_film(tmp_path/'a.mp4', n=600))
    whole = {f.number: f.image for f in read_frames(clip, every=1) if f.number >= 560}
    for f in read_frames(clip, start=570/12): assert (f.image == whole[f.number]).all() and f.number >= 570

def test_folders_of_mixed_sizes_are_refused(folder):
    Image.fromarray(picture(0)[:40]).save(folder/'f005.png')
    with pytest.raises(ValueError, match='f000.png is 96×64 and f005.png is 96×40; for images of several sizes use `segmenter predict`'): open_clip(folder)

def test_images_that_would_share_a_name_are_refused(folder):
    Image.fromarray(picture(0)).save(folder/'f005.bmp')
    with pytest.raises(ValueError, match='differ in their suffix only'): open_clip(folder)

@pytest.mark.parametrize('make, message', [
    (lambda p: p.write_bytes(b''), 'the file is empty'), (lambda p: p.write_bytes(b'x'*5000), 'it may be cut off, or no film'),
    (lambda p: write_film(p, n=0), 'holds no pictures|cannot read'), (lambda p: p.mkdir(), 'no image in')])
def test_what_holds_no_film_is_refused_in_a_line(tmp_path, make, message):
    make(tmp_path/'a.mp4')
    with pytest.raises(ValueError, match=message) as e: open_clip(tmp_path/'a.mp4')
    assert '\n' not in str(e.value)

def test_sound_alone_is_no_film(tmp_path):
    with av.open(str(tmp_path/'a.mp4'), 'w') as out:
        a, f = out.add_stream('aac', rate=48000), av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format='fltp', layout='mono')
        f.sample_rate = 48000
        out.mux(a.encode(f)); out.mux(a.encode())
    with pytest.raises(ValueError, match='holds no pictures'): open_clip(tmp_path/'a.mp4')

@pytest.mark.parametrize('kind, suffix', [('avi', '.avi'), ('matroska', '.mkv'), ('mov', '.mov')])
def test_a_film_cut_off_is_refused_or_taken_in_part(tmp_path, model, kind, suffix):
    data = write_film(tmp_path/f'a{suffix}', n=120, kind=kind).read_bytes()
    if kind == 'mov': # its table lies at the end, and is moved to the front
        with av.open(str(tmp_path/'a.mov')) as c, av.open(str(tmp_path/'b.mov'), 'w', options=dict(movflags='faststart')) as out:
            s = out.add_stream_from_template(c.streams.video[0])
            for p in c.demux(video=0):
                if p.dts is not None: p.stream = s; out.mux(p)
        data = (tmp_path/'b.mov').read_bytes()
    path = tmp_path/f'cut{suffix}'
    path.write_bytes(data[:len(data)//2])
    with pytest.raises(ValueError, match='is cut off: it holds .* of 120 frames|cannot be read|cannot read'): open_clip(path)
    report = segment_video(model, path, tmp_path/'out.mp4', partial=True, progress=False)
    assert 20 < report.n_frames < 110 and open_clip(tmp_path/'out.mp4').n_frames == report.n_frames

def test_a_bad_frame_in_a_folder_is_named(folder, tmp_path, model):
    (folder/'f004.png').write_bytes((folder/'f004.png').read_bytes()[:300])
    with pytest.raises(ValueError, match='f004.png'): segment_video(model, folder, tmp_path/'o.mp4', progress=False)
    assert not (tmp_path/'o.mp4').exists() and not leftovers(tmp_path)

# --- writing

@pytest.mark.parametrize('suffix', ['.mp4', '.m4v', '.mov', '.mkv', '.webm', '.gif'])
def test_every_kind_of_film_keeps_size_rate_and_pictures(folder, tmp_path, suffix):
    clip = open_clip(folder, 10)
    with FrameWriter(tmp_path/f'o{suffix}', clip) as out:
        for f in read_frames(clip): out.add(f, f.image)
    again = open_clip(tmp_path/f'o{suffix}')
    assert (again.width, again.height, again.n_frames) == (W, H, N) and again.rate == 10
    for f in read_frames(again): assert np.abs(f.image.astype(int) - picture(f.number)).mean() < 6

@pytest.mark.parametrize('size', [(95, 63), (33, 21), (96, 63)])
@pytest.mark.parametrize('suffix', ['.mp4', '.webm', '.gif'])
def test_odd_sizes_stay_odd(tmp_path, size, suffix):
    (w, h), clip = size, Clip(tmp_path/'x', *size, Fraction(5), 3, Fraction(1, 5))
    with FrameWriter(tmp_path/f'o{suffix}', clip) as out:
        for i in range(3): out.add(FilmFrame(i, Fraction(i, 5), None), picture(i)[:h, :w])
    again = open_clip(tmp_path/f'o{suffix}')
    assert (again.width, again.height) == size

def test_sound_is_copied_byte_for_byte(tmp_path, model):
    film = write_film(tmp_path/'a.mp4', n=24, sound='aac')
    segment_video(model, film, tmp_path/'o.mp4', progress=False)
    mine, theirs = packets(tmp_path/'o.mp4'), packets(film)
    assert [b for _, b in mine] == [b for _, b in theirs] and np.allclose([t for t, _ in mine], [t for t, _ in theirs], atol=.002)
    assert open_clip(tmp_path/'o.mp4').rate == 12

def test_sound_is_cut_where_the_pictures_are(tmp_path, model):
    film = write_film(tmp_path/'a.mp4', n=48, sound='aac')
    segment_video(model, film, tmp_path/'o.mp4', start=1., end=2.5, progress=False)
    times = [t for t, _ in packets(tmp_path/'o.mp4')]
    assert open_clip(tmp_path/'o.mp4').n_frames == 18 and min(times) < .05 and 1.4 < max(times) < 1.52
    assert {b for _, b in packets(tmp_path/'o.mp4')} <= {b for _, b in packets(film)}

def test_sound_that_does_not_fit_is_refused_before_the_work_and_may_be_left_out(tmp_path, model):
    film = write_film(tmp_path/'a.mp4', sound='aac')
    with pytest.raises(ValueError, match='.webm holds no aac, the sound of a.mp4; give sound=False'): segment_video(model, film, tmp_path/'o.webm', progress=False)
    assert not leftovers(tmp_path) and not (tmp_path/'o.webm').exists()
    segment_video(model, film, tmp_path/'o.webm', sound=False, progress=False)
    assert open_clip(tmp_path/'o.webm').sound == ''

def test_uneven_times_are_kept(tmp_path):
    clip = Clip(tmp_path/'x', W, H, Fraction(10), 4, Fraction(1, 1000))
    with FrameWriter(tmp_path/'o.mp4', clip) as out:
        for i, t in enumerate((0, 100, 450, 500)): out.add(FilmFrame(i, Fraction(t, 1000), None), picture(i))
    assert [round(1000*float(f.time)) for f in read_frames(open_clip(tmp_path/'o.mp4'))] == [0, 100, 450, 500]

def test_a_missing_encoder_names_the_way_out(tmp_path, folder, model, monkeypatch):
    def none(name, mode): raise ValueError(name)
    monkeypatch.setattr(av, 'Codec', none)
    with pytest.raises(ValueError, match='no encoder for .mp4 .libx264, libopenh264.; write a folder of PNG files'):
        segment_video(model, folder, tmp_path/'o.mp4', progress=False)
    assert not leftovers(tmp_path)

@pytest.mark.parametrize('out', ['o.mp4', 'o.gif'])
def test_an_interruption_leaves_the_old_film_and_nothing_beside_it(folder, tmp_path, model, out, monkeypatch):
    (tmp_path/out).write_bytes(b'old')
    calls = []
    def masks(images, masks=model.masks):
        calls.append(1)
        if len(calls) == 3: raise KeyboardInterrupt
        return masks(images)
    monkeypatch.setattr(model, 'masks', masks)
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt): segment_video(model, folder, tmp_path/out, progress=False)
    assert (tmp_path/out).read_bytes() == b'old' and not leftovers(tmp_path) and threading.active_count() == before

def test_a_full_disk_comes_out_as_an_error(folder, tmp_path, model, monkeypatch):
    def full(*a, **k): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(films, '_coded', full)
    with pytest.raises(OSError, match='No space'): segment_video(model, folder, tmp_path/'o.mp4', progress=False)
    assert not (tmp_path/'o.mp4').exists() and not leftovers(tmp_path)

def test_a_film_is_not_written_over_itself(folder, tmp_path, model):
    film = write_film(tmp_path/'a.mp4')
    for source, out in ((film, film), (folder, folder)):
        with pytest.raises(ValueError, match='choose another'): segment_video(model, source, out, progress=False)

# --- through the model

def test_labels_are_those_of_predict_in_any_batch(folder, tmp_path, model):
    for batch in (1, 3, 16):
        segment_video(model, folder, tmp_path/f'o{batch}', labels=tmp_path/f'l{batch}', window_batch=batch, progress=False)
        for i in range(N): assert (np.array(Image.open(tmp_path/f'l{batch}/f{i:03}.png')) == predict(model, picture(i)).label_map).all()

def test_a_folder_continues_where_it_was_interrupted(folder, tmp_path, model):
    first = segment_video(model, folder, tmp_path/'o', labels=tmp_path/'l', progress=False)
    whole = {f.name: f.read_bytes() for f in (tmp_path/'o').iterdir()}
    (tmp_path/'o/f007.png').unlink()
    (tmp_path/'l/f009.png').unlink()
    again = segment_video(model, folder, tmp_path/'o', labels=tmp_path/'l', legend=False, progress=False)
    assert (first.n_frames, again.n_frames, again.n_before) == (N, 2, N - 2) and len(whole) == N

def test_smoothing_does_all_frames_again(folder, tmp_path, model):
    segment_video(model, folder, tmp_path/'o', progress=False)
    report = segment_video(model, folder, tmp_path/'o', smoothing='exponential', progress=False)
    assert report.n_frames == N and report.unsmoothed.n_pairs == N - 1

def test_smoothing_with_nothing_kept_is_no_smoothing(folder, tmp_path, model):
    for kind in ('exponential', 'flow'):
        segment_video(model, folder, tmp_path/f's{kind}', labels=tmp_path/f'l{kind}', smoothing=kind, keep=0., progress=False)
        for i in range(N): assert (np.array(Image.open(tmp_path/f'l{kind}/f{i:03}.png')) == predict(model, picture(i)).label_map).mean() > .999

@pytest.mark.parametrize('kind', ['exponential', 'flow'])
def test_smoothing_steadies_a_model_that_wavers(tmp_path, model, kind, monkeypatch):
    (tmp_path/'still').mkdir()
    for i in range(N): Image.fromarray(picture(0)).save(tmp_path/f'still/{i:03}.png')
    torch.manual_seed(0)
    monkeypatch.setattr(model, 'masks', lambda x, masks=model.masks: masks(x)/8 + torch.randn(len(x), 5, x.shape[-2]//4, x.shape[-1]//4))
    report = segment_video(model, tmp_path/'still', tmp_path/'o.gif', smoothing=kind, keep=.8, progress=False)
    assert report.steadiness.along > report.unsmoothed.along + 5

def test_a_part_without_frames_is_refused(folder, tmp_path, model):
    for out in ('o.mp4', 'o'):
        with pytest.raises(ValueError, match='has no frame from 50 seconds'): segment_video(model, folder, tmp_path/out, start=50, progress=False)

def test_the_legend_lies_inside_and_only_grows(model):
    legend = video._Legend(video.class_list_of(model))
    sizes = []
    for ids in ([0], [0, 1], [1], [2]):
        labels = np.resize(np.array(ids, np.uint8), (200, 300))
        assert legend.draw(np.zeros((200, 300, 3), np.uint8), labels).shape == (200, 300, 3)
        sizes.append(len(legend.ids))
    assert sizes == [1, 2, 2, 3]

def test_only_a_few_frames_are_held(tmp_path, model, monkeypatch):
    alive, most = set(), []
    def count(frames):
        for f in frames: alive.add(f.number); yield f
    def add(self, frame, picture): alive.discard(frame.number); most.append(len(alive))
    monkeypatch.setattr(films._Pictures, '_add', add)
    monkeypatch.setattr(video, 'read_frames', lambda *a: count(FilmFrame(i, Fraction(i, 12), picture(i % 16)) for i in range(80)))
    assert segment_video(model, write_film(tmp_path/'a.mp4'), tmp_path/'o', progress=False).n_frames == 80 and max(most) < 20

@pytest.mark.parametrize('alpha', [-.1, 3, float('nan')])
def test_a_share_of_colour_is_a_share(folder, tmp_path, model, alpha):
    with pytest.raises(ValueError, match='is 0 to 1'): segment_video(model, folder, tmp_path/'o.mp4', alpha=alpha, progress=False)
    assert not list(tmp_path.glob('o*'))

def test_colours_may_be_safe(folder, tmp_path, model):
    a, b = (segment_video(model, folder, tmp_path/n, end=.05, safe=s, alpha=1., legend=False, progress=False).out/'f000.png' for n, s in (('a', False), ('b', True)))
    assert (np.array(Image.open(a)) != np.array(Image.open(b))).any()

# --- threads

def test_ahead_keeps_order_stops_early_and_hands_errors_over():
    assert list(ahead(range(100), 2)) == list(range(100))
    before = threading.active_count()
    items = ahead(iter(int, 1), 2) # endless
    next(items)
    items.close()
    assert threading.active_count() == before
    def bad():
        yield 1
        raise OSError('gone')
    with pytest.raises(OSError, match='gone'): list(ahead(bad()))

def test_behind_raises_what_happened_and_never_blocks():
    with pytest.raises(ZeroDivisionError):
        with Behind(lambda i: 1//(3 - i), depth=1) as behind:
            for i in range(1000): behind.put(i)

# --- flicker

@pytest.mark.parametrize('dx, dy', [(3, 0), (0, -2), (-4, 3)])
def test_flow_finds_a_shift_and_brings_labels_along(dx, dy):
    rng = np.random.default_rng(0)
    import cv2
    big = cv2.GaussianBlur(rng.integers(0, 256, (140, 180, 3)).astype(np.uint8), (0, 0), 2)
    cut = lambda y, x: np.ascontiguousarray(big[20 + y:116 + y, 20 + x:148 + x])
    flow = flow_between(cut(0, 0), cut(dy, dx))
    assert np.allclose(np.median(flow, (0, 1)), (dx, dy), atol=.3)
    ids = (np.arange(140*180) % 7).reshape(140, 180).astype(np.uint8)//2
    came, known = warped(ids[20:116, 20:148], np.broadcast_to(np.float32((dx, dy)), (96, 128, 2)))
    assert (came == ids[20 + dy:116 + dy, 20 + dx:148 + dx])[known].all() and known.sum() == (96 - abs(dy))*(128 - abs(dx))

def test_labels_that_stay_are_wholly_steady_and_a_cut_is_not_counted():
    meter = Flicker(5)
    for i in range(3): meter.add(picture(0), LABELS[:, :W])
    meter.add(255 - picture(0), np.zeros((H, W), np.uint8))
    found = meter.compute()
    assert (found.in_place, found.along, found.mIoU, found.n_pairs) == (100, 100, 100, 2)

def test_a_cut_forgets_what_was():
    s, p = Smoother('flow'), np.random.default_rng(0).random((3, H, W), dtype=np.float32)
    s.add(picture(0), p.copy())
    assert (s.add(255 - picture(0), p.copy()) == p).all()

# --- DAVIS

@pytest.fixture
def davis(tmp_path):
    root = tmp_path/'DAVIS'
    for name in ('bear', 'camel'):
        (root/'JPEGImages/480p'/name).mkdir(parents=True)
        for i in range(3): Image.fromarray(picture(i)).save(root/f'JPEGImages/480p/{name}/{i:05}.jpg')
    for part, text in (('2017/val', 'camel\nbear\n'), ('480p/val', '/JPEGImages/480p/bear/00000.jpg /Annotations/480p/bear/00000.png\n'*3),
                       ('480p/trainval', '/JPEGImages/480p/bear/00000.jpg /Annotations/480p/bear/00000.png\n'*3), ('2017/train', 'cow\n')):
        (root/'ImageSets'/part).parent.mkdir(parents=True, exist_ok=True)
        (root/f'ImageSets/{part}.txt').write_text(text)
    return root

def test_both_lists_of_davis_are_read_and_the_newer_wins(davis):
    assert list(davis_sequences(davis)) == ['camel', 'bear'] and list(davis_sequences(davis, 'trainval')) == ['bear']
    with pytest.raises(FileNotFoundError, match="lacks 1 of the 1 sequences of 'train', such as 'cow'"): davis_sequences(davis, 'train')

@pytest.mark.parametrize('kind', ['png', 'mp4'])
def test_a_split_is_resumed(davis, tmp_path, model, kind):
    first = segment_davis(model, davis, tmp_path/'o', kind=kind, labels=tmp_path/'l', progress=False)
    assert [r.n_frames for r in first.values()] == [3, 3] and len(list((tmp_path/'l').rglob('*.png'))) == 6
    again = segment_davis(model, davis, tmp_path/'o', kind=kind, labels=tmp_path/'l', progress=False)
    assert [(r.n_frames, r.n_before) for r in again.values()] == [(0, 3)]*2

def test_one_bad_sequence_does_not_stop_the_others(davis, tmp_path, model):
    Image.fromarray(picture(0)[:20]).save(davis/'JPEGImages/480p/camel/00001.jpg')
    failed = {}
    done = segment_davis(model, davis, tmp_path/'o', failed=failed.__setitem__, progress=False)
    assert list(done) == ['bear'] and '00001.jpg' in failed['camel']

# --- the command, real films

def test_the_command_writes_a_film_and_refuses_in_one_line(folder, tmp_path, capsys):
    assert cli.main(['video', str(folder), str(tmp_path/'o.mp4'), '--model-path', 'landcover', '--end', '.2', '--flicker', '--im-size', '0', '--cpu']) == 0
    assert 'pixels keep their class' in capsys.readouterr().out and open_clip(tmp_path/'o.mp4').n_frames == 5
    (tmp_path/'zero.mp4').touch()
    for words in ([str(tmp_path/'zero.mp4'), 'o.mp4'], [str(folder), 'o.mpg'], ['none', 'o.mp4'], [str(folder), str(tmp_path/'p.mp4'), '--start', '9'],
                  [str(folder), str(tmp_path/'p.mp4'), '--every', '0'], [str(folder), str(tmp_path/'p.mp4'), '--smoothing', 'median']):
        assert cli.main(['video', *words, '--model-path', 'landcover', '--cpu']) == 2
        err = [line for line in capsys.readouterr().err.splitlines() if line.startswith('segmenter video:')]
        assert len(err) == 1, words
    assert not leftovers(tmp_path) and not (tmp_path/'p.mp4').exists()

def test_the_first_frames_of_vtest(tmp_path, model):
    if not VTEST.is_file(): pytest.skip('vtest.avi of the Debian package opencv-doc is not here')
    clip = open_clip(VTEST)
    assert (clip.width, clip.height, clip.n_frames, clip.rate) == (768, 576, 795, 10)
    report = segment_video(model, VTEST, tmp_path/'o.mp4', start=30, end=30.5, flicker=True, progress=False)
    assert report.n_frames == 5 and report.steadiness.along > 60 and (open_clip(tmp_path/'o.mp4').width, open_clip(tmp_path/'o.mp4').rate) == (768, 10)

def test_frames_of_camvid(shared_data, tmp_path, model):
    files = sorted((shared_data/'camvid/images/val').iterdir())[:4]
    (tmp_path/'clip').mkdir()
    for f in files: os.symlink(f, tmp_path/'clip'/f.name)
    report = segment_video(model, tmp_path/'clip', tmp_path/'o.webm', rate=1, smoothing='flow', progress=False)
    assert report.n_frames == 4 and report.steadiness.n_pairs == 3
