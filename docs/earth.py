"Make the front page's picture from a finished demo: `python docs/earth.py runs/RUN_ID`."
import sys
from pathlib import Path
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]

def main(run):
    source = Path(run)/'figures'/'earth_map.png'
    if not source.is_file(): raise SystemExit(f'no {source}; run the demo first: make demo')
    target = ROOT/'docs'/'images'/'earth.jpg'
    target.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.open(source).convert('RGB')
    picture.resize((900, round(picture.height*900/picture.width)), Image.Resampling.LANCZOS).save(target, quality=82, optimize=True)
    print(f'{target.relative_to(ROOT)}: {target.stat().st_size//1024} KB')

if __name__ == '__main__': main(*sys.argv[1:])
