"""Start with `create_model` or `load_model`, then `predict` an image; `evaluate` a model on what `load_dataset` finds; train with `segmentation_learner`, or into a folder with `train`; give a model away with `save_pretrained`, or to a machine without PyTorch with `export_onnx`. Each name is imported when it is first asked for, so `import segmenter` costs next to nothing and loads neither torch nor fastai nor mmsegmentation. Every chapter is a module of its own (`segmenter.windows`, `segmenter.metrics`, …) with its own help.

```python
import segmenter as sg
model = sg.load_model('landcover')
sg.predict(model, sg.boxed_image('landcover')).overlay().shape
```

Modules:

- `segmenter.accuracy`: Is the pretrained encoder read correctly? Measure its ImageNet accuracy with the head it was trained with
- `segmenter.archives`: Downloads that continue where they broke off, archives that write only below their folder, a data set read inside its zip
- `segmenter.attention`: Attention maps: where a patch or a class looks, in any layer of encoder or decoder, over the whole image
- `segmenter.augmentation`: mmsegmentation's random crops, flips and colours, byte for byte, for less work
- `segmenter.authors`: `python -m segm.train` and its siblings, word for word, as thin modules over our verbs
- `segmenter.averaging`: A moving average of the weights over the last steps, quieter than any of them
- `segmenter.bench`: What is quicker than what, measured so that a busy machine does not decide
- `segmenter.boundaries`: Boundary IoU: how well a prediction draws the outlines, for all classes in one pass over the label map
- `segmenter.box`: A small trained model inside the package, what is known about it, and the command that replaces it
- `segmenter.browser`: A data set on one page: every pair as a thumbnail, a legend that filters, nothing to install and no network
- `segmenter.calibration`: When the model says 80 percent, is it right four times in five? Measure it, and correct it with a temperature
- `segmenter.checkpoints`: Load and save models: files are read without running code in them, and written so that a crash loses nothing
- `segmenter.classes`: What the ids of a label map mean, how they are drawn, and which ids may not occur
- `segmenter.cli`: `segmenter VERB`, with the flags the authors chose and help that comes from the code
- `segmenter.convert`: Convert a model between the layouts of the authors, of mmsegmentation and of this package, every number kept to the bit
- `segmenter.datasets`: Data sets by name: the whole Earth, the paper's three, CamVid, and any folder of yours
- `segmenter.distributed`: One command for one process or many: torchrun, accelerate, SLURM, or a cell of a notebook
- `segmenter.doctor`: What is wrong with a data set, with file, value and count, before the first step
- `segmenter.drawing`: Figures everybody can read: palettes for colour-blind eyes, maps of errors and differences, one style, text for screen readers
- `segmenter.encoder`: Patches become tokens: a vision transformer from timm, set up so that released weights give the released numbers
- `segmenter.evaluate`: The mIoU of a model on a data set: every image of a split, one confusion matrix, and the protocol beside the number
- `segmenter.exchange`: `segmenter export`, `segmenter zoo`
- `segmenter.experiments`: A notebook with dials, a profile that turns them, and a run folder that remembers
- `segmenter.explorer`: A web page in one file that shows the attention of every patch and head, offline and on a phone too
- `segmenter.export`: Export to other programs: the model as a `torch.export` program and as a checked ONNX file, for any batch, height and width
- `segmenter.export_bench`: PyTorch, compiled PyTorch and onnxruntime: latency in turns, memory in a process of its own each
- `segmenter.film_speed`: A film end to end against the bare network, in turns
- `segmenter.flags`: Flags, types and help of a command, read off a Python function; refusals in one line
- `segmenter.flicker`: Do labels stay the same from frame to frame? Measure it along the optical flow, and smooth them over time
- `segmenter.folders`: Any folder of yours as a data set: parallel folders, lists or a pattern, with a few words of YAML where guessing would be wrong
- `segmenter.frames`: Reading files and folders of frames, and writing films that appear whole or not at all
- `segmenter.guards`: Look names up with suggestions, write files whole or not at all, and tell by a digest which file was used
- `segmenter.intervals`: How certain is a mean IoU? Bootstrap intervals, and the difference of two models, without a second pass over the images
- `segmenter.laboratory`: `segmenter run`, `segmenter runs`
- `segmenter.large_images`: Segment an image that is too large for memory: read it by rows of windows, write it by rows of labels
- `segmenter.learner`: The paper's training, as a fastai `Learner` with callbacks small enough to read
- `segmenter.learning_rate`: One short, growing trial instead of ten long ones
- `segmenter.linear_decoder`: The paper's baseline: one linear layer that classifies each patch by itself
- `segmenter.logs`: Curves of several runs in one figure, from the authors' `log.txt` or ours
- `segmenter.looking`: `segmenter attention`, `segmenter explore`
- `segmenter.loss_bench`: A training step and its loss against the plain ones, in turns: time, and memory at the peak
- `segmenter.losses`: The training loss: cross-entropy over the labelled pixels, and a version that needs far less memory
- `segmenter.mask_transformer`: The paper's decoder: class tokens join the patches, look at the image, and are compared with every patch
- `segmenter.measuring`: `segmenter evaluate`, `segmenter accuracy`, `segmenter submit`
- `segmenter.merge`: Labels for images of any size without holding all probabilities: windows in full batches, answers tile by tile
- `segmenter.metrics`: Mean IoU and every other score of the paper's tables, computed from one matrix of counts
- `segmenter.mmseg_model`: Read and write weights of mmsegmentation's Segmenter: other names, transposed matrices, two settings that differ
- `segmenter.mmseg_registry`: Use this package's Segmenter inside mmsegmentation: one call, and its configurations build, train and test it
- `segmenter.model`: Encoder and decoder joined: build a model of the paper by its name, or any other combination by its parts
- `segmenter.model_bench`: Our labelling, the direct way and mmsegmentation's take turns, with the same weights, and their labels are compared
- `segmenter.onnx_predict`: One short file that segments an image with an exported model and needs only numpy, Pillow and onnxruntime
- `segmenter.optimizers`: From gradient to weights: the paper's SGD, any of timm's by name, and Muon, which lets every direction of a matrix learn alike
- `segmenter.outputs`: Pictures and files from a label map: ids, colours, outlines, a legend, the share of each class, confidence
- `segmenter.own_data`: Five lines from a folder of pictures to a model you have looked at: fine-tune, predict, show, interpret
- `segmenter.pairs`: An image and its label map: reading them, turning stored ids into training ids, and checking that they belong together
- `segmenter.patches`: From an image to a grid of patches and back to pixels, and how position embeddings are stretched over another grid
- `segmenter.photo_folders`: Segment every image of a folder and its subfolders, go on after an interruption, and report files that cannot be read
- `segmenter.pipelines`: From files to batches: the authors' augmentation, with every batch reproducible from seed and epoch
- `segmenter.planning`: From a handful of dials to data, model and batches, with everything refused that cannot work
- `segmenter.predict`: Segment a photograph, or many in constant memory: label maps, overlays, probabilities, and files to keep
- `segmenter.prepare`: From a web address, or from archives you have, to folders that are complete, verified and ready
- `segmenter.pretrained`: Load a pretrained vision transformer from any file, with a report of what matched, what was resampled and what is missing
- `segmenter.reading`: A pair of files as training needs it: two checked arrays, by the shortest way
- `segmenter.recipes`: Where settings that are left out come from: the paper's recipe, or a modern one
- `segmenter.region_losses`: The Dice loss, training on the hardest pixels only, and the one loss object that a run minimises
- `segmenter.registry`: What has been run: listed, filtered, compared, plotted; and the records a page may quote
- `segmenter.reports`: A folder that shows an evaluation: a page with a sortable table, the best and worst images, a row for each image
- `segmenter.results`: What was published and what we ran, side by side; "not run" where it was not
- `segmenter.run_files`: What a run leaves behind after every epoch, and how the next call finds its place again
- `segmenter.safekeeping`: Checkpoints that survive a crash, a full disk and a flipped bit; one run a folder; and a stop that loses nothing
- `segmenter.schedules`: The learning rate as a function of the iteration: polynomial decay, with an optional warm-up
- `segmenter.settings`: Everything a training run is made of, as one frozen value with the authors' names
- `segmenter.sharing`: Share a model as a folder: weights, configuration with a digest, and a card with scores, licence and a picture
- `segmenter.showing`: `segmenter video`, `segmenter logs`
- `segmenter.sizes`: Does the model find small things? mIoU by object size, defined so that the counts of all sizes add up to the confusion matrix
- `segmenter.slurm`: A sweep as a SLURM array: one job for each run, pre-empted and continued, with the same records
- `segmenter.speed`: After the merge the network is the cost: how close its matrix products come to what the machine can do, and what else helps
- `segmenter.statistics`: How frequent each class is, which images to draw more often, and the mean and deviation of the pixels
- `segmenter.steps`: From a batch to a step when memory is short or the encoder has to wait: the same gradient in parts
- `segmenter.submissions`: Predictions for a benchmark's test server: label maps in its own class ids, in a folder ready to zip
- `segmenter.sweeps`: Many runs from one line: rows of a table, grids, lists, some at a time, none lost
- `segmenter.training`: The authors' training script as a function: one folder a run, nothing lost in it, the same call continues it
- `segmenter.video`: Segment a film of any length and lay its classes over every frame, in constant memory, reading and writing while the network runs
- `segmenter.watching`: What a run shows of itself while it lasts: a table, a picture of predictions, a bar, and when enough is enough
- `segmenter.windows`: How a network that sees only a square segments images of any size: sliding windows, and a fast, exact way to merge them
- `segmenter.world_batch`: Several processes, one batch: who computes which images, and what each of them must divide by
- `segmenter.zoo`: Fourteen released models by name: what they score, how to find or download them, and what to take when a server is gone"""

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
