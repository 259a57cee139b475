"""Make the sheet of real held-out pictures that `03_clip` and `07_vae` look at, from the bundled sample of Fashion-MNIST's test split.

    python tools/held_out.py [--out miniai/data/held-out]

One picture for each of the combinations of garment, colour and background that were kept from all training; seed 0. `pictures.png` holds them
edge to edge, row by row, and `pictures.json` says what they show."""
import json, torch
from pathlib import Path
from fastcore.script import call_parse
from miniai.core import image_grid, save_image
from miniai.fashion import *

def held_out_pictures(seed=0):
    "Pictures (n,3,64,64) in [0,1], and the combinations (n,3) that they show"
    rows = combinations(held_out=True)
    return Pictures(*load_fashion_mnist('test', path='sample', quiet=True))(rows, torch.Generator().manual_seed(seed)), rows

@call_parse
def main(
    out:str='miniai/data/held-out', # Folder for pictures.png and pictures.json
    columns:int=12, # Pictures in a row
):
    "Make the sheet of real held-out pictures"
    x,rows = held_out_pictures()
    names = dict(garment=garments, color=colors, background=backgrounds)
    shown = [dict(caption=caption(row), **{k:v[i] for (k,v),i in zip(names.items(), row.tolist())}) for row in rows]
    about = dict(made_by='python tools/held_out.py', size=picture_size, columns=columns, names=names, pictures=shown)
    save_image(image_grid(x, ncols=columns, gap=0), Path(out)/'pictures.png')
    (Path(out)/'pictures.json').write_text(json.dumps(about, indent=1) + '\n')
