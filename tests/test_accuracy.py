"ImageNet accuracy against torchvision's own folder, transforms and topk."
import numpy as np
import pytest
import torch
from PIL import Image
from segmenter import cli, measuring
from segmenter.accuracy import _ranks, imagenet_accuracy, imagenet_images, imagenet_view
from segmenter.encoder import create_encoder, find_normalization

IDS = dict(n01440764=0, n01443537=1, n02114548=270, n15075141=999) # positions as ImageNet numbers them

@pytest.fixture(scope='module')
def imagenet(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp('imagenet'), np.random.default_rng(0)
    for name in IDS:
        (root/'val'/name).mkdir(parents=True)
        for i, size in enumerate([(90, 120), (130, 70), (40, 41)]):
            small = rng.integers(0, 256, (6, 8, 3), np.uint8)
            picture = Image.fromarray(small).resize(size[::-1], Image.BICUBIC)
            picture.convert(['RGB', 'L', 'CMYK'][i]).save(root/'val'/name/f'{i}.JPEG', format='jpeg')
    (root/'val'/'n01440764'/'notes.txt').write_text('no image')
    return root

def narrow(backbone='vit_tiny_patch16_384', seed=0):
    torch.manual_seed(seed)
    encoder = create_encoder(backbone, 64, embed_dim=64, depth=2, n_heads=1)
    torch.nn.init.normal_(encoder.head.weight, std=.3)
    with torch.no_grad(): encoder.head.bias[[0, 1, 270, 999]] += 9.
    return encoder

@pytest.mark.parametrize('backbone, normalization', [('vit_tiny_patch16_384', 'vit'), ('deit_tiny_distilled_patch16_224', 'deit')])
@pytest.mark.parametrize('batch_size', [1, 5, 32])
def test_accuracy_is_that_of_torchvisions_folder_and_transforms(imagenet, backbone, normalization, batch_size):
    from torchvision import datasets, transforms as T
    encoder, n = narrow(backbone).eval(), find_normalization(normalization)
    steps = T.Compose([T.Resize(96, T.InterpolationMode.BICUBIC), T.CenterCrop(64), T.ToTensor(), T.Normalize(n.mean, n.std)])
    data = datasets.ImageFolder(imagenet/'val', steps)
    with torch.no_grad(): logits = torch.cat([encoder(image[None]) for image, _ in data])
    targets = torch.tensor([IDS[data.classes[t]] for _, t in data])
    first, five = (logits.topk(k).indices.eq(targets[:, None]).any(1).double().mean().item()*100 for k in (1, 5))
    found = imagenet_accuracy(encoder, imagenet, normalization=normalization, batch_size=batch_size, progress=False)
    assert (found.top1, found.top5, found.n_images) == (pytest.approx(first), pytest.approx(five), 12)
    assert 0 < found.top5

def test_the_view_is_torchvisions(imagenet):
    from torchvision import transforms as T
    for size in ((90, 120), (300, 200), (64, 64)):
        image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        expected = T.Compose([T.Resize(96, T.InterpolationMode.BICUBIC), T.CenterCrop(64)])(Image.fromarray(image))
        assert np.array_equal(imagenet_view(image, 64), np.asarray(expected))

def test_some_of_the_classes_have_their_own_numbers(imagenet):
    images, targets = imagenet_images(imagenet)
    assert targets == [n for n in IDS.values() for _ in range(3)] and images == imagenet_images(imagenet/'val')[0]

def test_folders_of_other_names_are_counted_only_when_there_are_enough(tmp_path):
    for name in 'ab':
        (tmp_path/'val'/name).mkdir(parents=True)
        Image.new('RGB', (8, 8)).save(tmp_path/'val'/name/'x.png')
    assert imagenet_images(tmp_path, n_classes=2)[1] == [0, 1]
    with pytest.raises(ValueError, match='holds 2 folders: expected one for each class'): imagenet_images(tmp_path)
    with pytest.raises(FileNotFoundError, match='holds val/'): imagenet_images(tmp_path/'none')
    (tmp_path/'empty'/'n01440764').mkdir(parents=True)
    with pytest.raises(ValueError, match='no image below'): imagenet_images(tmp_path/'empty')

def test_an_image_that_cannot_be_read_is_named(imagenet, tmp_path):
    (tmp_path/'val'/'n01440764').mkdir(parents=True)
    (tmp_path/'val'/'n01440764'/'broken.JPEG').write_bytes(b'no picture')
    with pytest.raises(ValueError, match='broken.JPEG'): imagenet_accuracy(narrow(), tmp_path, progress=False)

def test_equal_logits_are_ranked_as_argmax_ranks_them():
    logits = torch.tensor([[1., 1., 0.], [0., 1., 1.]])
    assert _ranks(logits, torch.tensor([0, 2])).tolist() == [0, 1]

def test_the_encoder_is_left_as_it_was(imagenet):
    encoder = narrow().train()
    assert imagenet_accuracy(encoder, imagenet, progress=False) == imagenet_accuracy(encoder, imagenet, progress=False) and encoder.training

def test_worker_processes_read_the_same(imagenet):
    assert imagenet_accuracy(narrow(), imagenet, num_workers=1, progress=False) == imagenet_accuracy(narrow(), imagenet, progress=False)

# --- the verb

def test_the_verb_and_the_authors_module_print_the_accuracy(imagenet, monkeypatch, capsys):
    from segmenter import authors
    monkeypatch.setattr(measuring, '_pretrained', lambda backbone, weights, gpu: (narrow(), 'vit'))
    assert cli.main(['accuracy', 'vit_tiny_patch16_384', '--imagenet-dir', str(imagenet), '-bs', '4', '-nw', '0', '--no-gpu']) == 0
    ours = capsys.readouterr().out
    assert ours.startswith('vit_tiny_patch16_384: top-1 ') and '12 images' in ours
    assert authors.run('segm.eval.accuracy', ['vit_tiny_patch16_384', '--imagenet-dir', str(imagenet), '-nw', '0', '--no-gpu']) == 0
    assert capsys.readouterr().out == ours

@pytest.mark.parametrize('words, says', [
    (['vit_tinny_patch16_384'], "unknown backbone 'vit_tinny_patch16_384'; did you mean 'vit_tiny_patch16_384'"),
    (['vit_tiny_patch16_384', '--weights', 'none.pth'], "no weights at 'none.pth'")])
def test_what_cannot_be_measured_is_one_line(words, says, imagenet, capsys):
    assert cli.main(['accuracy', *words, '--imagenet-dir', str(imagenet), '--no-gpu']) == 2
    assert says in capsys.readouterr().err

def test_a_folder_that_is_not_there_is_one_line(capsys):
    assert cli.main(['accuracy', 'vit_tiny_patch16_384', '--imagenet-dir', 'nowhere']) == 2
    assert "no folder of ImageNet at 'nowhere'" in capsys.readouterr().err

@pytest.mark.slow
def test_weights_of_ones_own_need_their_head(imagenet, tmp_path, capsys):
    encoder = create_encoder('vit_tiny_patch16_384')
    torch.save(encoder.state_dict(), tmp_path/'whole.pth')
    torch.save({k: v for k, v in encoder.state_dict().items() if not k.startswith('head')}, tmp_path/'headless.pth')
    line = ['accuracy', 'vit_tiny_patch16_384', '--imagenet-dir', str(imagenet), '-nw', '0', '--no-gpu', '--weights']
    assert cli.main([*line, str(tmp_path/'whole.pth')]) == 0 and '12 images' in capsys.readouterr().out
    assert cli.main([*line, str(tmp_path/'headless.pth')]) == 2 and 'no ImageNet head' in capsys.readouterr().err
