"""Start with `create_model` or `load_model`, then `predict` an image; `evaluate` a model on what `load_dataset` finds; train with `segmentation_learner`, or into a folder with `train`; give a model away with `save_pretrained`, or to a machine without PyTorch with `export_onnx`. Each name is imported when it is first asked for, so `import segmenter` costs next to nothing and loads neither torch nor fastai nor mmsegmentation. Every chapter is a module of its own (`segmenter.windows`, `segmenter.metrics`, …) with its own help.

```python
import segmenter as sg
model = sg.load_model('landcover')
sg.predict(model, sg.boxed_image('landcover')).overlay().shape
```

Modules:

- `segmenter.accuracy`: Is the encoder we start from the one we think it is? Ask what it was trained for
- `segmenter.archives`: Downloads that continue where they broke, archives that write nowhere else, a data set read inside its zip
- `segmenter.attention`: Where a token looks: the model's own attention, of any layer, over the whole image
- `segmenter.augmentation`: mmsegmentation's random crops, byte for byte, for less work
- `segmenter.authors`: `python -m segm.train` and its siblings, word for word, as thin modules over our verbs
- `segmenter.bench`: What is quicker than what, measured so that a busy machine does not decide
- `segmenter.boundaries`: How well the outlines are drawn: boundary IoU, for all classes in one pass over the label map
- `segmenter.browser`: A data set on one page: every pair as a thumbnail, a legend that filters, nothing to install and no network
- `segmenter.calibration`: When the model says 80 percent, is it right four times in five?
- `segmenter.checkpoints`: Released models, runs of ours and folders to give away: read without running what is in them, written so that a crash loses nothing
- `segmenter.classes`: What the ids of a label map mean, how they are drawn, and which ids may not occur
- `segmenter.convert`: A model in the layout of the authors, of mmsegmentation, or of this package, from any of the three
- `segmenter.datasets`: Pairs of image and label map: the whole Earth, the paper's sets, any folder of yours
- `segmenter.doctor`: What is wrong with a data set, with file, value and count, before the first step
- `segmenter.drawing`: Palettes that survive colour blindness, maps of errors and differences, one style for all figures
- `segmenter.encoder`: A plain vision transformer from timm, with the authors' epsilon and the authors' positions
- `segmenter.evaluate`: Every image of a split, one confusion matrix, and the protocol written beside the number
- `segmenter.exchange`: `segmenter export`, `segmenter zoo`
- `segmenter.explorer`: One page to look around in: every patch, every head, offline, on a phone too
- `segmenter.export`: The model as a `torch.export` program and as an ONNX file, for any batch, height and width
- `segmenter.export_bench`: PyTorch as it is, compiled, and onnxruntime: latency in turns, memory each in a process of its own
- `segmenter.film_speed`: A film end to end against the bare network, in turns
- `segmenter.flicker`: Does a label stay with its thing from frame to frame, and how to make it
- `segmenter.folders`: Any folder of yours as a data set: parallel folders, lists or a pattern, with a few words of YAML where guessing would be wrong
- `segmenter.frames`: Reading files and folders of frames, and writing films that appear whole or not at all
- `segmenter.guards`: Clear refusals, and files that are whole or not there
- `segmenter.intervals`: A mean IoU from two thousand images has an error bar; it costs no second pass over them
- `segmenter.laboratory`: `segmenter run`, `segmenter runs`
- `segmenter.large_images`: An image that fits in no memory, read by rows of windows and written by rows of labels
- `segmenter.linear_decoder`: One linear layer that asks each patch alone
- `segmenter.logs`: Curves of several runs in one figure, from the authors' `log.txt` or ours
- `segmenter.looking`: `segmenter attention`, `segmenter explore`
- `segmenter.loss_bench`: A training step and its loss against the plain ones, in turns and in one run: seconds, and memory at the peak
- `segmenter.losses`: How wrong a label map is: cross-entropy over the pixels that somebody labelled
- `segmenter.mask_transformer`: Classes join the patches, look at the image with them, and each reads off its mask as an agreement
- `segmenter.measuring`: `segmenter evaluate`, `segmenter accuracy`, `segmenter submit`
- `segmenter.merge`: Labels of any image without `[K, H, W]`: windows in full batches, answers tile by tile
- `segmenter.metrics`: One matrix of counts, and every number of the tables from it
- `segmenter.mmseg_model`: mmsegmentation's Segmenter: its names, its turned matrices, and what it computes differently
- `segmenter.mmseg_registry`: One call, and mmsegmentation's configurations build, train and test it
- `segmenter.model`: Encoder and decoder joined: the paper's variants by name, and anything in between
- `segmenter.model_bench`: Ours, the direct way and mmsegmentation's, in turns, with the same weights and the labels compared
- `segmenter.onnx_predict`: One short file that segments an image with an exported model: numpy, Pillow, onnxruntime
- `segmenter.outputs`: What to keep of a label map: indices, colours, contours, a legend, shares, confidence
- `segmenter.pairs`: An image and its label map: reading them, turning stored ids into training ids, and checking that they belong together
- `segmenter.patches`: An image as a grid of patches: padding, cutting, and stretching what the model knows about position
- `segmenter.photo_folders`: From a folder to a folder: below it too, again after an interruption, past whatever cannot be read
- `segmenter.pipelines`: From files to batches: the authors' augmentation, in an order that can be had again
- `segmenter.predict`: From a photograph to a label map, an overlay and a legend; from many photographs to a stream of them
- `segmenter.prepare`: From an address, or from archives you have, to folders that are complete, verified and ready
- `segmenter.pretrained`: A vision transformer from anywhere, carried in with an account of what matched, what was stretched and what is missing
- `segmenter.reading`: A pair of files as training wants it: checked, in OpenCV's order of colours, with little ceremony
- `segmenter.region_losses`: Dice, the hardest pixels, and one loss that a run is given: each from the masks, tile by tile
- `segmenter.reports`: An evaluation to look at: a page that sorts, the images that went well and badly, a row for each image
- `segmenter.sharing`: A folder that says what it is: weights, configuration with a digest, and a card with scores, licence and a picture
- `segmenter.showing`: `segmenter video`, `segmenter logs`
- `segmenter.sizes`: Does the model find small things? mIoU by the size of the object, defined so that the parts add up to the whole
- `segmenter.speed`: After the merge the network is the cost: how near its matrix products are to what the machine can do, and what else helps
- `segmenter.statistics`: How frequent each class is, which images are worth seeing more often, and what grey is on average
- `segmenter.submissions`: Label maps as a benchmark's server wants them: its ids, its file names, a folder to zip
- `segmenter.video`: A film in, the same film with its classes out: any length, constant memory, the network never waiting
- `segmenter.windows`: A network that sees a square segments images of any size: sliding windows, and their exact merge
- `segmenter.zoo`: Fourteen released models by name: what they score, where they lie, and what to take when a server is gone"""

# AUTOGENERATED! DO NOT EDIT! File to edit: ../nbs/80_init.ipynb.

# %% auto #0
__all__ = ['create_model', 'load_model', 'predict', 'evaluate', 'load_dataset', 'sliding_labels', 'sliding_probabilities',
           'ConfusionMatrix', 'segmentation_learner', 'train', 'dataloaders', 'Interpretation', 'boxed_image',
           'save_pretrained', 'from_pretrained', 'export_onnx']

# %% ../nbs/80_init.ipynb #eb3507ec
import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

# %% ../nbs/80_init.ipynb #ace64862
_DOORS = dict(
    create_model='model', load_model='checkpoints', predict='predict', evaluate='evaluate', load_dataset='datasets',
    sliding_labels='merge', sliding_probabilities='windows', ConfusionMatrix='metrics', segmentation_learner='own_data', train='training',
    dataloaders='pipelines', Interpretation='own_data', boxed_image='box', save_pretrained='sharing', from_pretrained='sharing', export_onnx='export')
_all_ = ['create_model', 'load_model', 'predict', 'evaluate', 'load_dataset', 'sliding_labels', 'sliding_probabilities',
         'ConfusionMatrix', 'segmentation_learner', 'train', 'dataloaders', 'Interpretation', 'boxed_image',
         'save_pretrained', 'from_pretrained', 'export_onnx']

# %% ../nbs/80_init.ipynb #e5d98d77
if TYPE_CHECKING: # what an editor needs to know the names
    from segmenter.box import boxed_image
    from segmenter.checkpoints import load_model
    from segmenter.datasets import load_dataset
    from segmenter.evaluate import evaluate
    from segmenter.export import export_onnx
    from segmenter.own_data import Interpretation, segmentation_learner
    from segmenter.pipelines import dataloaders
    from segmenter.metrics import ConfusionMatrix
    from segmenter.model import create_model
    from segmenter.predict import predict
    from segmenter.sharing import from_pretrained, save_pretrained
    from segmenter.training import train
    from segmenter.merge import sliding_labels
    from segmenter.windows import sliding_probabilities

# %% ../nbs/80_init.ipynb #435fe158
def _version():
    "Of the installed package, or of the checkout that was never installed."
    from importlib.metadata import PackageNotFoundError, version
    try: return version('segmenter')
    except PackageNotFoundError: return '0+unknown'

def _submodule(name):
    "The chapter of that name, or None."
    try: return import_module(f'{__name__}.{name}')
    except ModuleNotFoundError as e:
        if e.name != f'{__name__}.{name}': raise

# %% ../nbs/80_init.ipynb #42c87770
def __getattr__(name):
    "A front-door name, the version, or a chapter, imported when it is first asked for."
    if name in _DOORS: return getattr(import_module(f'{__name__}.{_DOORS[name]}'), name)
    if name == '__version__': return _version()
    found = None if name.startswith('_') else _submodule(name)
    if found is not None: return found
    from difflib import get_close_matches
    near = get_close_matches(name, _DOORS, n=3)
    raise AttributeError(f'segmenter has no {name!r}; {"nearest" if near else "it has"}: {", ".join(near or _DOORS)}')

def __dir__():
    from pkgutil import iter_modules
    return sorted({*_DOORS, '__version__', *(name for name in globals() if name.startswith('__')), *(m.name for m in iter_modules(__path__))})

# %% ../nbs/80_init.ipynb #115e7102
class _FrontDoor(ModuleType):
    "This package: a chapter named like a front-door function leaves that name to the function."
    def __setattr__(self, name, value):
        if isinstance(value, ModuleType) and _DOORS.get(name) == name: value = getattr(value, name, value)
        super().__setattr__(name, value)

sys.modules[__name__].__class__ = _FrontDoor
