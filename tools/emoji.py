"""Draw the sprite sheets of `miniai/data/emoji` from four emoji sets: `python tools/emoji.py FOLDER`

FOLDER is the `node_modules/@iconify-json` of `npm install @iconify-json/{noto,fluent-emoji-flat,twemoji,fxemoji}`; `pip install resvg-py` brings the renderer."""
import io, json, sys
from pathlib import Path
import resvg_py
from PIL import Image

out = Path(__file__).resolve().parent.parent/'miniai'/'data'/'emoji'
side, columns = 64, 12

def names_in_set(text):
    "From `cat=cat-face fox` to `{'cat': 'cat-face', 'fox': 'fox'}`"
    return {name.replace('_', ' '): icon or name for name,_,icon in (o.partition('=') for o in text.split())}

# The thing's name in captions, and its name in the emoji sets where that differs
things = names_in_set('''cat=cat-face dog=dog-face lion tiger=tiger-face fox bear panda koala pig=pig-face cow=cow-face frog monkey=monkey-face rabbit=rabbit-face
horse=horse-face unicorn chicken penguin owl duck turtle snake dinosaur=sauropod elephant whale=spouting-whale fish=tropical-fish octopus crab snail
butterfly bee=honeybee ladybug=lady-beetle apple=red-apple banana strawberry grapes pineapple watermelon lemon pear cherries carrot corn=ear-of-corn
broccoli mushroom hamburger pizza french_fries=french-fries cheese=cheese-wedge ice_cream=soft-ice-cream cake=birthday-cake doughnut cupcake
car=automobile bus truck=delivery-truck tractor bicycle train=locomotive airplane helicopter rocket sailboat tree=deciduous-tree palm_tree=palm-tree
cactus sunflower rose tulip clover=four-leaf-clover leaf=maple-leaf smiling_face=grinning-face crying_face=loudly-crying-face angry_face=pouting-face
sleeping_face=sleeping-face robot ghost alien skull snowman pumpkin=jack-o-lantern crown top_hat=top-hat t-shirt dress jeans shoe=running-shoe
high_heel=high-heeled-shoe glasses umbrella backpack house castle key lock=locked bell balloon gift=wrapped-gift guitar camera telephone television
clock=alarm-clock book=closed-book scissors magnet light_bulb=light-bulb candle bomb trophy soccer_ball=soccer-ball star heart=red-heart
moon=crescent-moon sun cloud rainbow snowflake fire volcano anchor''')

# What the fourth set, which no model is trained on, has of them and calls otherwise
fourth = names_in_set('''bear penguin frog koala octopus snail bee=honeybee ladybug=ladybeetle whale=spurtingwhale fish=tropicalfish turtle snake elephant cat dog cow=cowface
pig horse=horseface monkey=monkeyface panda=pandaface rabbit=bunny tiger chicken apple=redapple banana strawberry grapes pineapple watermelon lemon
pear cherries corn=earofmaize mushroom hamburger pizza=sliceofpizza cake=birthdaycake doughnut car=automobile bus truck=deliverytruck tractor bicycle
airplane helicopter rocket tree=deciduoustree cactus sunflower rose tulip clover=fourleafclover leaf=mapleleaf ghost alien skull pumpkin=jackolantern
crown dress jeans glasses umbrella house=housebuilding castle=europeancastle key lock bell balloon gift=present guitar camera television
book=closedbook bomb trophy candle clock=alarmclock star=whitemediumstar heart=redheart moon=crescentmoon cloud fire anchor light_bulb=lightbulb
palm_tree=palmtree ice_cream=softicecream top_hat=tophat french_fries=frenchfries crying_face=loudlycrying sleeping_face=sleeping smiling_face=grin
soccer_ball=soccerball''')

def svg(icons, name):
    "One drawing, as an SVG text"
    while name in icons.get('aliases', {}): name = icons['aliases'][name]['parent']
    icon = icons['icons'][name]
    size = icon.get('left', 0), icon.get('top', 0), icon.get('width', icons['width']), icon.get('height', icons['height'])
    return f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{" ".join(map(str, size))}" width="512" height="512">{icon["body"]}</svg>'

def sprite(text):
    "The drawing without the empty space around it, 62 pixels long at its longer side, in the middle of 64 by 64"
    im = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=text, width=512)))).convert('RGBa')
    im = im.crop(im.getbbox())
    scale = (side-2)/max(im.size)
    im = im.resize([max(1, round(o*scale)) for o in im.size], Image.Resampling.BOX, reducing_gap=None)
    sheet = Image.new('RGBa', (side,side))
    sheet.paste(im, [(side-o)//2 for o in im.size])
    return sheet.convert('RGBA')

def draw(folder, icon_set, icons_of, file):
    icons = json.loads((Path(folder)/icon_set/'icons.json').read_text())
    names = [n for n in things if n in icons_of]
    sheet = Image.new('RGBA', (columns*side, -(-len(things)//columns)*side))
    for i,name in enumerate(things):
        if name in icons_of: sheet.paste(sprite(svg(icons, icons_of[name])), (i%columns*side, i//columns*side))
    sheet.save(out/file, optimize=True)
    print(f'{file}: {len(names)} drawings, {(out/file).stat().st_size/1e6:.2f} MB')

if __name__=='__main__':
    folder = sys.argv[1]
    for icon_set,file in ('noto','noto.png'), ('fluent-emoji-flat','fluent.png'), ('twemoji','twemoji.png'): draw(folder, icon_set, things, file)
    draw(folder, 'fxemoji', fourth, 'fxemoji.png')
    (out/'things.txt').write_text('\n'.join(things) + '\n')
