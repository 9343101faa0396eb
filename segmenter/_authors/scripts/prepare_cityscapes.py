"`python -m segm.scripts.prepare_cityscapes`: see `segmenter.authors`."
from segmenter.authors import run

if __name__ == '__main__': raise SystemExit(run('segm.scripts.prepare_cityscapes'))
