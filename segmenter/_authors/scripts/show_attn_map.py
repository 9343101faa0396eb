"`python -m segm.scripts.show_attn_map`: see `segmenter.authors`."
from segmenter.authors import run

if __name__ == '__main__': raise SystemExit(run('segm.scripts.show_attn_map'))
