"Evaluation by several processes: the numbers of one, to the last digit, and no files on the way."
import json, os, subprocess, sys
from pathlib import Path
import numpy as np
import pytest
import torch
from PIL import Image
from segmenter.patches import SCENE_CLASSES, scene

def make_folder(root, n=7):
    for part in 'images', 'annotations': (root/part/'val').mkdir(parents=True)
    for i in range(n):
        image, labels = scene(40 + 3*i, 60)
        labels[:3] = 255
        noise = np.random.default_rng(i).normal(0, 25, image.shape)
        Image.fromarray(np.clip(np.roll(image, 9*i, 1) + noise, 0, 255).astype(np.uint8)).save(root/f'images/val/{i}.png')
        Image.fromarray(np.roll(labels, 9*i, 1).astype(np.uint8)).save(root/f'annotations/val/{i}.png')
    (root/'classes.txt').write_text('\n'.join(SCENE_CLASSES))
    return root

def measure(root, limit=None):
    "Everything that is counted, as plain tensors."
    from segmenter.boundaries import BoundaryIoU
    from segmenter.calibration import calibrate
    from segmenter.datasets import load_dataset
    from segmenter.evaluate import evaluate
    from segmenter.sizes import SizeBins
    from segmenter.windows import PatchColours
    model = PatchColours(*scene(60, 90), SCENE_CLASSES, patch_size=4, window_size=32, window_stride=20, im_size=48)
    data, meters, mine = load_dataset(root, 'val'), [BoundaryIoU(5), SizeBins(5, edges=(50, 500))], []
    found = evaluate(model, data, limit=limit, meters=meters, progress=False, each=lambda i, p: mine.append(i))
    c = calibrate(model, data)
    return dict(matrix=found.confusion.matrix, boundary=meters[0].counts, sizes=meters[1].counts, parts=torch.from_numpy(found.images.parts()),
                scores=torch.tensor([found.scores.mIoU, found.scores.mAcc, found.scores.aAcc, c.temperature, c.before.ece, c.after.nll], dtype=torch.double),
                indices=torch.tensor(found.images.indices), n=torch.tensor(found.n_images), mine=torch.tensor(mine))

def work(rank, world, root, limit):
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', init_method=f'file://{root}/store', rank=rank, world_size=world)
    torch.save(measure(f'{root}/data', limit), f'{root}/rank{rank}.pt')
    torch.distributed.destroy_process_group()

@pytest.mark.parametrize('world, limit', [(2, None), (3, 2)])
def test_processes_together_count_what_one_counts_bit_for_bit(world, limit, tmp_path):
    data = make_folder(tmp_path/'data')
    before = sorted(f.name for f in data.rglob('*'))
    torch.multiprocessing.spawn(work, (world, str(tmp_path), limit), nprocs=world)
    alone, ranks = measure(data, limit), [torch.load(tmp_path/f'rank{rank}.pt') for rank in range(world)]
    for rank in ranks:
        for name in alone.keys() - {'mine'}: assert torch.equal(alone[name], rank[name]), name
    shares = [rank['mine'].tolist() for rank in ranks]
    assert sorted(sum(shares, [])) == alone['mine'].tolist() and max(map(len, shares)) - min(map(len, shares)) <= 1
    assert sorted(f.name for f in data.rglob('*')) == before

@pytest.mark.slow
def test_torchrun_writes_once_and_the_same(tmp_path):
    from segmenter import create_model
    from segmenter.checkpoints import save_checkpoint, variant_of, write_variant
    data = make_folder(tmp_path/'data', 5)
    torch.manual_seed(0)
    model = create_model(backbone='vit_tiny_patch16_384', n_classes=5, image_size=32, embed_dim=64, depth=1, n_heads=1, decoder='linear', classes=SCENE_CLASSES)
    (tmp_path/'run').mkdir()
    save_checkpoint(tmp_path/'run'/'checkpoint.pth', model, optimizer=torch.optim.SGD(model.parameters(), .1), lr_scheduler={}, epoch=0)
    write_variant(tmp_path/'run'/'variant.yml', variant_of(model.config))
    records, bin = {}, Path(sys.executable).parent
    starts = dict(one=[bin/'segmenter'], two=[bin/'torchrun', '--nproc-per-node', '2', '--no-python', bin/'segmenter'])
    for name, start in starts.items():
        line = [*start, 'evaluate', tmp_path/'run', data, '--boundary', '--sizes', '--save-images', '--cpu', '--out', tmp_path/name]
        done = subprocess.run([str(w) for w in line], capture_output=True, text=True, env=os.environ | dict(OMP_NUM_THREADS='1'))
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count('mIoU by object size') == 1 and done.stdout.count('protocol:') == 1
        records[name] = [json.loads((tmp_path/name/f).read_text()) for f in ('eval_ss.json', 'measures_ss.json')]
        records[name][0].pop('seconds')
    assert records['one'] == records['two']
    assert {f.relative_to(tmp_path/'one') for f in (tmp_path/'one').rglob('*')} == {f.relative_to(tmp_path/'two') for f in (tmp_path/'two').rglob('*')}
