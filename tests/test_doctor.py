"A planted fault of every kind is found, named, weighed, and mended by the advice; a healthy data set is left in peace."
import json, shutil
from pathlib import Path
import numpy as np, pytest
from PIL import Image
from segmenter import cli
from segmenter.classes import ClassList, class_list
from segmenter.datasets import Dataset, load_dataset
from segmenter.doctor import KINDS, Problem, audit
from segmenter.guards import UnknownName
from segmenter.patches import SCENE_CLASSES, scene

PICTURE, IDS = scene(40, 60)
IDS = IDS.astype(np.uint8)

def save(path, array, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **kwargs)

@pytest.fixture
def folder(tmp_path):
    "Three streets to train on, two to validate on; nothing is wrong."
    for k, name in enumerate('abcde'):
        split = 'train' if name in 'abc' else 'val'
        save(tmp_path/'images'/split/f'{name}.jpg', np.roll(PICTURE, 7*k, 1))
        save(tmp_path/'annotations'/split/f'{name}.png', np.roll(IDS, 7*k, 1))
    (tmp_path/'classes.txt').write_text('\n'.join(SCENE_CLASSES))
    return tmp_path

def found(data, **kwargs): return audit(data, progress=False, **kwargs)
def one(data, kind, **kwargs):
    "The only problem there is."
    problems = found(data, **kwargs).problems
    assert [p.kind for p in problems] == [kind], problems
    return problems[0]
def relabel(folder, change):
    for f in (folder/'annotations').rglob('*.png'): save(f, change(np.array(Image.open(f))))

def test_nothing_is_wrong_with_a_healthy_folder(folder):
    a = found(folder)
    assert a.ok and a.problems == [] and 'nothing is wrong' in a.report() and list(a.counts) == ['train', 'val']

def test_the_counts_are_those_of_a_loop_over_pixels(folder):
    c, train = found(folder).counts['train'], load_dataset(folder)
    maps = [train.label_map(i) for i in range(3)]
    assert c.pixels == [sum(int((m == k).sum()) for m in maps) for k in range(5)] and c.void == 0
    assert c.shown_in == [sum(bool((m == k).any()) for m in maps) for k in range(5)]
    assert (c.images, c.listed, c.sizes) == (3, 3, {'60×40': 3})

# --- single files

def test_a_missing_label_map_is_listed_and_not_dropped(folder):
    (folder/'annotations/train/b.png').unlink()
    p = one(folder, 'missing_label')
    assert p.fatal and p.split == 'train' and p.file.endswith('annotations/train/b.png') and found(folder).counts['train'].images == 3

def test_a_label_map_of_the_wrong_format_is_named(folder):
    f = folder/'annotations/train/b.png'
    save(f.with_suffix('.jpg'), np.array(Image.open(f)))
    f.unlink()
    assert 'beside it lies b.jpg' in one(folder, 'missing_label').detail

def test_a_label_map_without_image_is_worth_a_look(folder):
    save(folder/'annotations/val/z.png', IDS)
    p = one(folder, 'label_without_image')
    assert not p.fatal and p.file.endswith('z.png') and found(folder).ok

@pytest.mark.parametrize('content', [b'', b'no picture'])
def test_an_unreadable_image_is_named(folder, content):
    (folder/'images/train/a.jpg').write_bytes(content)
    assert one(folder, 'unreadable_image').file.endswith('images/train/a.jpg')

def test_an_image_that_may_not_be_read_is_named(folder):
    (folder/'images/train/a.jpg').unlink()
    (folder/'images/train/a.jpg').symlink_to(folder/'gone.jpg')
    assert one(folder, 'unreadable_image').fatal

@pytest.mark.parametrize('suffix, options', [('jpg', {}), ('jpg', dict(progressive=True)), ('png', {}), ('tif', {}), ('bmp', {}), ('webp', {})])
@pytest.mark.parametrize('part', [.5, .97])
def test_a_truncated_image_is_named_in_every_format(folder, suffix, options, part):
    f = folder/f'images/train/a.{suffix}'
    (folder/'images/train/a.jpg').unlink()
    save(f, PICTURE, **options)
    assert found(folder).ok
    f.write_bytes(f.read_bytes()[:int(f.stat().st_size*part)])
    kinds = [p.kind for p in found(folder).problems]
    assert kinds in (['truncated_image'], ['unreadable_image'])

def test_a_jpeg_whose_end_is_zeros_is_truncated(folder):
    f = folder/'images/train/a.jpg'
    n = f.stat().st_size
    f.write_bytes(f.read_bytes()[:n*3//4] + bytes(n//4))
    assert one(folder, 'truncated_image').detail == 'the end of the JPEG is missing'

def test_a_picture_too_large_to_open_is_named_and_the_others_are_seen(folder, monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 1000)
    save(folder/'annotations/train/b.png', np.zeros((10, 10), np.uint8))
    kinds = {p.kind for p in found(folder).problems}
    assert 'unreadable_image' in kinds and found(folder).counts['train'].images == 3

def test_a_thumbnails_end_is_not_the_pictures_end(folder):
    f = folder/'images/train/a.jpg'
    whole = f.read_bytes()
    note = b'Exif\0\0' + b'\xff\xd8\xff\xda thumbnail \xff\xd9'
    f.write_bytes(whole[:2] + b'\xff\xe1' + (len(note) + 2).to_bytes(2, 'big') + note + whole[2:])
    assert found(folder).ok
    f.write_bytes(f.read_bytes()[:-40])
    one(folder, 'truncated_image')

def test_bytes_behind_the_end_of_a_jpeg_are_no_matter(folder):
    f = folder/'images/train/a.jpg'
    f.write_bytes(f.read_bytes() + b'\0'*5000)
    assert found(folder).ok

def test_a_png_with_a_wrong_byte_is_named(folder):
    (folder/'images/train/a.jpg').unlink()
    f = folder/'images/train/a.png'
    save(f, PICTURE)
    data = bytearray(f.read_bytes())
    data[len(data)//2] ^= 255
    f.write_bytes(data)
    one(folder, 'truncated_image')

@pytest.mark.parametrize('cut', [0, .5])
def test_an_unreadable_label_map_is_named(folder, cut):
    f = folder/'annotations/val/d.png'
    f.write_bytes(f.read_bytes()[:int(f.stat().st_size*cut)])
    p = one(folder, 'unreadable_label')
    assert p.fatal and p.split == 'val' and str(folder) not in p.detail

def test_sizes_that_disagree_are_named_with_both(folder):
    save(folder/'annotations/train/c.png', IDS[:, :50])
    assert one(folder, 'size').detail == 'a label map of 50×40 pixels for an image of 60×40'

def test_a_picture_turned_by_its_note_is_compared_upright(folder):
    exif = Image.Exif()
    exif[0x112] = 6
    save(folder/'images/train/a.jpg', PICTURE, exif=exif)
    assert 'turned by its EXIF note?' in one(folder, 'size').detail
    save(folder/'annotations/train/a.png', np.rot90(IDS).copy())
    assert found(folder).ok

def test_ids_outside_the_list_are_named_with_file_value_and_count(folder):
    ids = IDS.copy()
    ids[0, :7], ids[1, :3] = 66, 200
    save(folder/'annotations/train/b.png', ids)
    p = one(folder, 'unknown_ids')
    assert p.file.endswith('b.png') and p.detail == '66 (7 pixels), 200 (3 pixels)' and p.index == 1

def test_a_list_of_many_strange_ids_is_cut_short(folder):
    save(folder/'annotations/train/b.png', (np.arange(2400) % 100 + 100).reshape(40, 60).astype(np.uint8))
    assert one(folder, 'unknown_ids').detail.endswith('and 92 more')

def test_16_bit_and_negative_ids_are_counted(folder):
    ids = IDS.astype(np.int32)
    ids[0, 0], ids[0, 1:3] = -1, 70000
    (folder/'annotations/train/b.png').unlink()
    save(folder/'annotations/train/b.tif', ids)
    assert [p.detail for p in found(folder).problems if p.kind == 'unknown_ids'] == ['-1 (1 pixels), 70000 (2 pixels)']

def test_an_image_of_void_alone_is_worth_a_look(folder):
    save(folder/'annotations/train/b.png', np.full((40, 60), 255, np.uint8))
    p = one(folder, 'all_void')
    assert not p.fatal and p.detail == 'all 2400 pixels are void' and found(folder).counts['train'].void == 2400

def test_a_mask_in_the_colours_of_the_palette_is_an_rgb_mask(folder):
    palette = load_dataset(folder).classes.palette
    save(folder/'annotations/train/b.png', palette[IDS])
    p = one(folder, 'rgb_mask')
    assert p.detail == '5 colours, 5 of them of the palette' and 'this is an RGB mask' in p.fix

def test_a_grey_mask_with_three_channels_is_told_apart(folder):
    save(folder/'annotations/train/b.png', np.stack([IDS]*3, -1))
    assert 'three equal channels' in one(folder, 'rgb_mask').detail

def test_ids_with_transparency_are_told_apart(folder):
    Image.merge('LA', [Image.fromarray(IDS)]*2).save(folder/'annotations/train/b.png')
    assert 'transparency' in one(folder, 'rgb_mask').detail

def test_a_label_map_of_fractions_is_no_label_map(folder):
    (folder/'annotations/train/b.png').unlink()
    save(folder/'annotations/train/b.tif', IDS.astype(np.float32))
    p = one(folder, 'not_ids')
    assert p.detail == 'the pixels are float32'

# --- encodings with a name

def test_a_colour_of_no_class_is_named_with_its_pixels(folder):
    classes = ClassList(SCENE_CLASSES)
    painted = classes.palette[IDS]
    painted[0, :3] = 1, 2, 3
    (folder/'classes.txt').unlink()
    (folder/'classes.json').write_text(json.dumps({name: rgb.tolist() for name, rgb in zip(classes.names, classes.palette)}))
    for k, f in enumerate(sorted((folder/'annotations').rglob('*.png'))): save(f, np.roll(painted if f.stem == 'b' else classes.palette[IDS], 7*k, 1))
    p = one(folder, 'unknown_colours')
    assert p.fatal and p.file.endswith('b.png') and '(1, 2, 3) (3 pixels)' in p.detail and p.detail.startswith('1 colours')

def test_masks_of_0_and_255_are_fine_when_they_are_said_to_be_binary(folder):
    relabel(folder, lambda ids: np.where(ids > 2, 255, 0).astype(np.uint8))
    (folder/'classes.txt').unlink()
    (folder/'dataset.yaml').write_text('binary: true')
    assert found(folder).problems == []

def test_a_folder_split_by_seed_has_no_label_map_without_image(tmp_path):
    for k, name in enumerate('abcde'):
        save(tmp_path/f'images/{name}.jpg', np.roll(PICTURE, 7*k, 1))
        save(tmp_path/f'masks/{name}.png', np.roll(IDS, 7*k, 1))
    save(tmp_path/'masks/z.png', IDS)
    (tmp_path/'classes.txt').write_text('\n'.join(SCENE_CLASSES))
    a = found(tmp_path)
    assert {(p.kind, Path(p.file).name) for p in a.problems} == {('label_without_image', 'z.png')} and list(a.counts) == ['train', 'val']

def test_images_of_six_bands_are_looked_at(tmp_path):
    for k, name in enumerate('ab'):
        for split in ('train', 'val'):
            (tmp_path/'images'/split).mkdir(parents=True, exist_ok=True)
            np.save(tmp_path/f'images/{split}/{name}.npy', np.full((40, 60, 6), ord(name) + (split == 'val')*9, np.uint16))
            save(tmp_path/f'labels/{split}/{name}.png', IDS)
    (tmp_path/'dataset.yaml').write_text(f'in_chans: 6\nclasses: {list(SCENE_CLASSES)}')
    assert found(tmp_path).problems == []

def test_another_number_of_bands_than_was_said_is_named_with_the_word_for_it(folder):
    for f in (folder/'images').rglob('*.jpg'):
        np.save(f.with_suffix('.npy'), np.full((40, 60, 6), ord(f.stem), np.uint8))
        f.unlink()
    a = found(folder)
    assert {p.kind for p in a.problems} == {'unreadable_image'} and len(a.problems) == 5
    assert a.problems[0].detail == 'the shape [40, 60, 6]; expected [H, W, 3]' and 'in_chans in dataset.yaml' in a.problems[0].fix
    (folder/'dataset.yaml').write_text('in_chans: 6')
    assert found(folder).ok

def test_a_label_map_without_image_is_said_once_where_splits_share_a_folder(tmp_path):
    for k, name in enumerate('abc'):
        save(tmp_path/f'images/{name}.jpg', np.roll(PICTURE, 7*k, 1))
        save(tmp_path/f'masks/{name}.png', np.roll(IDS, 7*k, 1))
    save(tmp_path/'masks/z.png', IDS)
    (tmp_path/'classes.txt').write_text('\n'.join(SCENE_CLASSES))
    assert Path(one(tmp_path, 'label_without_image').file).name == 'z.png'
    assert found(tmp_path).report().splitlines()[0].endswith(': 0 problems would break a training, 1 is worth a look')

def test_cityscapes_label_ids_are_named(tmp_path):
    for split in ('train', 'val'):
        for k in range(2):
            save(tmp_path/f'cityscapes/leftImg8bit/{split}/ulm/{split}{k}_leftImg8bit.png', np.roll(PICTURE, k, split == 'val'))
            save(tmp_path/f'cityscapes/gtFine/{split}/ulm/{split}{k}_gtFine_labelTrainIds.png', np.array([7, 8, 21, 23, 26], np.uint8)[IDS])
    a = found('cityscapes', data_root=tmp_path)
    assert [p.kind for p in a.problems if not p.file and p.fatal] == ['label_ids']*2 and 'these look like Cityscapes labelIds' in a.report()

def test_cityscapes_without_train_ids_says_who_writes_them(tmp_path):
    for split in ('train', 'val'):
        save(tmp_path/f'cityscapes/leftImg8bit/{split}/ulm/{split}_leftImg8bit.png', np.roll(PICTURE, 3, split == 'val'))
        save(tmp_path/f'cityscapes/gtFine/{split}/ulm/{split}_gtFine_labelIds.png', IDS)
        save(tmp_path/f'cityscapes/leftImg8bit/{split}/ulm/{split}9_leftImg8bit.png', np.roll(PICTURE, 5, split == 'val'))
        save(tmp_path/f'cityscapes/gtFine/{split}/ulm/{split}9_gtFine_labelTrainIds.png', IDS)
    p = found('cityscapes', data_root=tmp_path).problems[0]
    assert p.kind == 'missing_label' and 'train_gtFine_labelIds.png' in p.detail and 'cityscapesscripts' in p.detail

def test_ids_that_begin_at_1_are_named(folder):
    relabel(folder, lambda ids: ids + 1)
    a = found(folder)
    p = a.problems[0]
    assert p.kind == 'ids_from_one' and p.fatal and 'reduce_zero_label: true in dataset.yaml' in p.fix and 'ids 1–5 occur' in p.detail

def test_one_id_past_the_end_names_both_readings(folder):
    relabel(folder, lambda ids: np.where(np.arange(60) < 3, 5, ids).astype(np.uint8))
    p = found(folder).problems[0]
    assert p.kind == 'one_past_end' and 'ignore: in dataset.yaml' in p.fix and 'reduce_zero_label' in p.fix and p.file == ''

def test_ids_spread_out_for_the_eye_are_named_with_the_divisor(folder):
    relabel(folder, lambda ids: ids*60)
    p = found(folder).problems[0]
    assert p.kind == 'stretched_ids' and p.fix == 'divide the ids by 60'

def test_a_binary_mask_of_0_and_255_is_named_though_every_id_is_allowed(folder):
    (folder/'classes.txt').write_text('ground\nfigure')
    relabel(folder, lambda ids: np.where(ids > 2, 255, 0).astype(np.uint8))
    a = found(folder)
    assert not a.ok and {p.kind for p in a.problems if p.fatal} == {'stretched_ids'} and a.problems[0].fix == 'divide the ids by 255, or say binary: true in dataset.yaml'

def test_ade20k_read_as_it_should_be_is_fine_and_raw_is_not(tmp_path):
    root = tmp_path/'ade20k/ADEChallengeData2016'
    for split, part in dict(train='training', val='validation').items():
        ids = (np.arange(2400) % 151).reshape(40, 60).astype(np.uint8)
        save(root/f'images/{part}/x.jpg', np.roll(PICTURE, 3, split == 'val'))
        save(root/f'annotations/{part}/x.png', ids)
    assert found('ade20k', data_root=tmp_path).problems == []
    raw = Dataset('mine', 'train', [root/'images/training/x.jpg'], [root/'annotations/training/x.png'], class_list('ade20k'))
    assert [p.kind for p in found(raw).problems] == ['one_past_end', 'unknown_ids']

# --- a split, and between splits

def test_classes_never_seen_are_listed_by_name(folder):
    relabel(folder, lambda ids: np.where(ids == 4, 2, ids).astype(np.uint8))
    a = found(folder)
    assert [(p.kind, p.split) for p in a.problems] == [('never_seen', 'train'), ('never_seen', 'val')] and a.ok
    assert a.problems[0].detail == '1 of 5 classes have no pixel: car'

def test_a_long_list_of_classes_never_seen_is_cut_short(folder):
    (folder/'classes.txt').write_text('\n'.join(f'c{k}' for k in range(200)))
    detail = found(folder).problems[0].detail
    assert detail.startswith('195 of 200 classes have no pixel: c5, c6') and detail.endswith('c24 and 175 more (the counts name them)')

def test_classes_judged_and_never_trained_are_named(folder):
    for f in (folder/'annotations/train').iterdir(): save(f, np.minimum(np.array(Image.open(f)), 3))
    p = next(p for p in found(folder).problems if p.kind == 'only_in_val')
    assert p.detail == 'car' and not p.fatal

def test_a_split_of_void_alone_teaches_nothing(folder):
    for f in (folder/'annotations/train').iterdir(): save(f, np.full((40, 60), 255, np.uint8))
    a = found(folder)
    assert not a.ok and next(p for p in a.problems if p.fatal).kind == 'nothing_to_learn'

def test_a_picture_in_two_splits_is_named_with_both(folder):
    shutil.copy(folder/'images/train/b.jpg', folder/'images/val/e.jpg')
    p = one(folder, 'in_two_splits')
    assert p.file.endswith('val/e.jpg') and p.detail == 'the same bytes as train: b.jpg' and not p.fatal

def test_a_picture_twice_in_a_split_is_named(folder):
    shutil.copy(folder/'images/train/b.jpg', folder/'images/train/c.jpg')
    assert one(folder, 'repeated').detail == 'the same bytes as train: b.jpg'

# --- what cannot be listed

def test_a_missing_class_list_is_a_problem_in_the_words_of_the_refusal(folder):
    (folder/'classes.txt').unlink()
    a = found(folder)
    assert not a.ok and {p.kind for p in a.problems} == {'layout'} and 'classes.txt' in a.problems[0].detail and a.classes is None
    assert 'classes.txt' in a.report() and not a.show_offenders()

def test_a_missing_validation_split_is_a_problem(folder):
    shutil.rmtree(folder/'images/val')
    a = found(folder)
    assert [(p.kind, p.split) for p in a.problems] == [('layout', 'val')] and not a.ok and a.counts['train'].images == 3

def test_two_images_of_one_name_are_a_problem(folder):
    save(folder/'images/train/a.png', PICTURE)
    assert 'have the same name' in one(folder, 'layout').detail

def test_further_splits_are_looked_at_too(folder):
    for part in ('images', 'annotations'): shutil.copytree(folder/part/'val', folder/part/'test')
    a = found(folder)
    assert list(a.counts) == ['train', 'val', 'test'] and {p.kind for p in a.problems} == {'in_two_splits'}

def test_splits_can_be_chosen_and_a_slip_is_refused(folder):
    assert list(found(folder, splits=['val']).counts) == ['val']
    with pytest.raises(UnknownName, match="did you mean 'val'"): found(folder, splits=['vall'])

@pytest.mark.parametrize('name, error', [('cityscape', UnknownName), ('no/such/folder', FileNotFoundError)])
def test_a_name_or_folder_that_is_not_there_is_refused(name, error):
    with pytest.raises(error): found(name)

def test_a_data_set_whose_place_is_unknown_is_refused(monkeypatch):
    monkeypatch.delenv('DATASET', raising=False)
    with pytest.raises(ValueError, match='environment variable DATASET'): found('cityscapes')

# --- how it works

@pytest.mark.parametrize('workers', [1, 3])
def test_the_number_of_threads_changes_nothing(folder, workers):
    save(folder/'annotations/train/b.png', IDS + 60)
    (folder/'images/val/d.jpg').write_bytes(b'')
    assert found(folder, workers=workers).record() == found(folder).record()

def test_a_limit_is_spread_over_the_split_and_said(folder):
    relabel(folder, lambda ids: np.minimum(ids, 3))
    a = found(folder, limit=1)
    assert (a.counts['train'].images, a.counts['train'].listed) == (1, 3) and 'in the 1 images looked at' in a.problems[0].detail
    with pytest.raises(ValueError, match='limit 0'): found(folder, limit=0)

def test_a_data_set_in_hand_can_be_audited(folder):
    train, val = load_dataset(folder), load_dataset(folder, 'val')
    assert list(found(train).counts) == ['train'] and found([train, val]).record() == found(folder).record() | dict(name=train.name)

def test_images_without_truth_are_looked_at(folder):
    data = Dataset('mine', 'test', load_dataset(folder).images, None, ClassList(SCENE_CLASSES))
    assert found(data).problems == []
    data.images[0].write_bytes(b'')
    a = found(data)
    assert [p.kind for p in a.problems] == ['unreadable_image'] and a.show_offenders()

def test_nothing_is_written_beside_the_data(folder):
    before = {f: f.stat().st_mtime_ns for f in folder.rglob('*')}
    found(folder)
    assert {f: f.stat().st_mtime_ns for f in folder.rglob('*')} == before

def test_every_kind_says_what_mends_it():
    for kind, (fatal, fix) in KINDS.items(): assert isinstance(fatal, bool) and len(fix) > 15 and Problem(kind, '', '').fix == fix

def test_every_kind_is_planted_in_this_file():
    text = Path(__file__).read_text()
    assert [kind for kind in KINDS if f"'{kind}'" not in text] == []

# --- reports

@pytest.fixture
def ill(folder):
    save(folder/'annotations/train/b.png', IDS + 60)
    (folder/'annotations/val/d.png').unlink()
    (folder/'images/train/a.jpg').write_bytes(b'')
    return folder

def test_the_record_is_json_with_everything(ill):
    r = json.loads(json.dumps(found(ill).record()))
    assert r['ok'] is False and r['classes'] == list(SCENE_CLASSES) and set(r['counts']) == {'train', 'val'}
    assert all(set(p) == {'kind', 'file', 'detail', 'split', 'index', 'fix', 'fatal'} for p in r['problems']) and len(r['problems']) == 3

def test_the_folder_holds_record_report_and_pictures(ill, tmp_path):
    written = found(ill).write(tmp_path/'out')
    assert [f.name for f in written] == ['audit.json', 'report.txt', 'classes.png', 'offenders.png'] == [f.name for f in written if f.stat().st_size]
    assert Image.open(written[3]).size[1] > 300

def test_a_report_names_three_files_of_a_kind_and_counts_the_rest(folder):
    for k in range(6):
        save(folder/f'images/train/x{k}.jpg', np.roll(PICTURE, 13*k + 1, 0))
        save(folder/f'annotations/train/x{k}.png', IDS + 60)
    text = found(folder).report()
    assert text.count('annotations/train/x') == 3 and 'and 3 more' in text and 'unknown ids, train: 6 files' in text and str(folder) not in text

def test_unknown_ids_are_red_in_the_picture(folder):
    save(folder/'annotations/train/b.png', np.where(IDS == 4, 66, IDS).astype(np.uint8))
    from segmenter.doctor import _picture
    a = found(folder)
    painted = _picture(a, a.problems[-1])[1]
    assert (painted[IDS == 4] == (255, 0, 0)).all() and not (painted[IDS != 4] == (255, 0, 0)).all(-1).any()

def typed(line, capsys):
    code = cli.main([str(word) for word in line])
    said = capsys.readouterr()
    return code, said.out, said.err

def test_the_command_exits_with_1_when_a_training_would_break(ill, tmp_path, capsys):
    code, out, _ = typed(['doctor', ill, '--json', tmp_path/'found.json', '--out', tmp_path/'out'], capsys)
    assert code == 1 and '3 problems would break a training' in out and json.loads((tmp_path/'found.json').read_text())['ok'] is False
    assert (tmp_path/'out'/'offenders.png').exists()

def test_the_command_exits_with_0_when_all_is_well(folder, capsys):
    code, out, _ = typed(['doctor', folder, '--split', 'val'], capsys)
    assert code == 0 and 'nothing is wrong' in out and 'train' not in out

def test_the_command_refuses_in_one_line(tmp_path, capsys):
    code, out, err = typed(['doctor', tmp_path/'none'], capsys)
    assert code == 2 and not out and err.startswith('segmenter doctor: no folder') and err.count('\n') == 1

def test_camvid_is_healthy(shared_data):
    a = found('camvid', data_root=shared_data)
    assert a.ok and a.problems == [] and [c.images for c in a.counts.values()] == [367, 101]
    assert a.counts['train'].sizes == {'480×360': 367} and sum(a.counts['val'].pixels) + a.counts['val'].void == 101*480*360

def test_camvid_read_without_its_void_is_explained(shared_data):
    val = load_dataset('camvid', 'val', shared_data)
    a = found(Dataset('mine', 'val', val.images, val.labels, val.classes), limit=5)
    assert a.problems[0].kind == 'one_past_end' and a.problems[0].detail.startswith('id 11 occurs') and not a.ok

def test_a_known_set_given_as_a_folder_is_told_its_name_once(tmp_path):
    for part in 'images', 'annotations':
        for split in 'train', 'val': (tmp_path/'camvid'/part/split).mkdir(parents=True)
    report = audit(tmp_path/'camvid', progress=False).report()
    assert report.count('has no classes.txt') == 1 and f"say 'camvid' with --data-root {tmp_path}" in report and 'layout, train, val' in report

def jpeg_with(kind, quality=90, **how):
    "A JPEG of a street with a fault in the middle."
    import io
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)//2 + scene(90, 120)[0]//2).save(out, 'JPEG', quality=quality, **how)
    data = bytearray(out.getvalue())
    half = len(data)//2
    if kind == 'zeros': data[half:half + 512] = bytes(512)
    if kind == 'cut and closed': data[half:] = b'\xff\xd9'
    if kind == 'left out': del data[half:half + 512]
    if kind == 'noise': data[half:half + 512] = np.random.default_rng(1).bytes(512)
    return bytes(data)

@pytest.mark.parametrize('how', [{}, dict(progressive=True), dict(restart_marker_blocks=4)], ids=['baseline', 'progressive', 'restarts'])
@pytest.mark.parametrize('kind', ['zeros', 'cut and closed', 'left out', 'noise'])
def test_damage_in_the_middle_of_a_jpeg_is_seen_and_told(kind, how):
    from segmenter.doctor import _complaint
    assert _complaint(jpeg_with('', **how)) is None
    assert _complaint(jpeg_with(kind, **how))[0] in ('damaged_image', 'unreadable_image')

def test_a_damaged_jpeg_is_listed_and_does_not_stop_a_training(tmp_path):
    from segmenter.doctor import _image_facts
    (tmp_path/'a.jpg').write_bytes(jpeg_with('cut and closed'))
    size, _, (kind, why) = _image_facts(tmp_path/'a.jpg')
    assert size == (90, 120) and kind == 'damaged_image' and not KINDS[kind][0] and 'premature end' in why.lower()

@pytest.mark.parametrize('mode', ['L', 'CMYK', 'RGB'])
def test_a_whole_jpeg_of_any_kind_has_no_complaint(mode):
    import io
    from segmenter.doctor import _complaint
    for how in dict(progressive=True), dict(subsampling=0), dict(quality=100, subsampling=1), dict(optimize=True):
        Image.fromarray(scene(37, 51)[0]).convert(mode).save(out := io.BytesIO(), 'JPEG', **how)
        assert _complaint(out.getvalue()) is None

def test_every_remedy_speaks_of_what_a_folder_can_say():
    "`void_label` and `ignore_index` are names of Python objects; a folder says `ignore:`."
    for kind, (_, fix) in KINDS.items(): assert 'void_label' not in fix and 'ignore_index' not in fix and '\n' not in fix, kind
