"CLIP beside diffusers and transformers, on any text and any picture, and with models of other shapes."
import importlib.util, warnings
from pathlib import Path
import numpy as np, pytest, torch, transformers
from diffusers import StableDiffusionPipeline
from hypothesis import given, settings, strategies as st
from PIL import Image
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from miniai.clip import *
from miniai.core import embedded_model, measured
from miniai.fashion import caption, combinations

try: from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil as CLIPImageProcessor
except ImportError: from transformers import CLIPImageProcessor

root = Path(__file__).parent.parent
some = settings(deadline=None, derandomize=True, max_examples=60)
transformers.logging.disable_progress_bar()

@pytest.fixture(scope='module')
def library():
    pipe = StableDiffusionPipeline.from_pretrained(embedded_model(), safety_checker=None, dtype=torch.float32)
    if not hasattr(pipe.text_encoder, 'text_model'): pipe.text_encoder.__dict__['text_model'] = pipe.text_encoder # where diffusers looks for the norm
    return pipe

@pytest.fixture(scope='module')
def clip(): return CLIP.from_pretrained(device='cpu')

def other_clip(folder, seed=0):
    "A folder of a CLIP of another shape, with random weights"
    torch.manual_seed(seed)
    tokenizer = CLIPTokenizer.from_pretrained(embedded_model()/'tokenizer')
    text = dict(hidden_size=32, intermediate_size=48, num_attention_heads=4, num_hidden_layers=2, vocab_size=len(tokenizer), max_position_embeddings=24,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    vision = dict(hidden_size=24, intermediate_size=32, num_attention_heads=2, num_hidden_layers=2, image_size=48, patch_size=12)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=20)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor(size=48, crop_size=48).save_pretrained(folder)
    return folder

@pytest.fixture(scope='module')
def other(tmp_path_factory): return other_clip(tmp_path_factory.mktemp('other')/'clip')

def photo(size, mode='RGB', seed=0):
    "Noise with large patches in it"
    values = np.random.default_rng(seed).integers(0, 256, (9,7,3), dtype=np.uint8)
    return Image.fromarray(values).resize(size, Image.BICUBIC).convert(mode)


# The pictures

def test_the_sheet_is_what_its_script_makes():
    spec = importlib.util.spec_from_file_location('held_out', root/'tools/held_out.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    x,rows = tool.held_out_pictures()
    images,labels = real_pictures()
    assert len(images)==len(rows)
    for image,made,label,row in zip(images, x, labels, rows):
        assert np.abs(np.asarray(image) - (made.permute(1,2,0)*255).numpy()).max()<=1.01
        assert label['caption']==caption(row)

def test_the_pictures_are_held_out():
    trained = {caption(row) for row in combinations(held_out=False)}
    labels = real_pictures()[1]
    assert not trained & {label['caption'] for label in labels}
    assert {f"{label['color']} {label['garment']}" in label['caption'] and label['background'] in label['caption'] for label in labels}=={True}
    assert 'Zalando' in (root/'miniai/data/held-out/LICENSE').read_text()


# Texts

@pytest.mark.parametrize('clip_skip', [None,0,1,2,3])
def test_layers_are_those_of_diffusers(library, clip_skip):
    prompts = ['a photo of a red ankle boot on a blue background', '', 'zebra, 3 ducks']
    theirs = library.encode_prompt(prompts, 'cpu', 1, False, clip_skip=clip_skip)[0]
    assert torch.equal(encode(prompts, library.tokenizer, library.text_encoder, clip_skip), theirs)

def test_the_library_draws_the_same_from_our_embeddings(library):
    library.set_progress_bar_config(disable=True)
    run = dict(num_inference_steps=3, guidance_scale=3., output_type='np')
    seed = lambda: torch.Generator().manual_seed(0)
    ours = library(prompt_embeds=encode('a red bag', library.tokenizer, library.text_encoder, 1), negative_prompt_embeds=encode('', library.tokenizer, library.text_encoder), generator=seed(), **run)
    assert np.array_equal(ours.images, library('a red bag', clip_skip=1, generator=seed(), **run).images)

@pytest.mark.parametrize('bad', [-1, 4, 1.5, 'last'])
def test_layers_that_there_are_not(library, bad):
    with pytest.raises(ValueError, match='3 layers'): encode('a bag', library.tokenizer, library.text_encoder, bad)

@some
@given(st.lists(st.text(max_size=40), min_size=1, max_size=4))
def test_one_vector_for_a_text_is_the_library_s(library, texts):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        ours = pooled(texts, library.tokenizer, library.text_encoder)
    tokens = library.tokenizer(texts, padding='max_length', truncation=True, max_length=24, return_tensors='pt')
    with torch.no_grad(): assert torch.equal(ours, library.text_encoder(tokens.input_ids).pooler_output)

@pytest.mark.parametrize('config', [dict(eos_token_id=2), dict(eos_token_id=609), dict(eos_token_id=609, use_attention_mask=True)], ids=['before 2023','now','masked'])
@pytest.mark.parametrize('pad', ['<|endoftext|>','!'])
def test_other_text_encoders(config, pad):
    tokenizer = CLIPTokenizer.from_pretrained(embedded_model()/'tokenizer', pad_token=pad)
    torch.manual_seed(0)
    encoder = CLIPTextModel(CLIPTextConfig(hidden_size=32, intermediate_size=48, num_attention_heads=4, num_hidden_layers=5, vocab_size=610, max_position_embeddings=24, **config)).eval()
    texts = ['a red bag', 'trousers']
    tokens = tokenizer(texts, padding='max_length', max_length=24, return_tensors='pt')
    mask = dict(attention_mask=tokens.attention_mask) if 'use_attention_mask' in config else {}
    with torch.no_grad(): out = encoder(tokens.input_ids, output_hidden_states=True, **mask)
    assert torch.equal(encode(texts, tokenizer, encoder), out.last_hidden_state)
    assert torch.equal(encode(texts, tokenizer, encoder, 4), encoder.final_layer_norm(out.hidden_states[1]))
    assert torch.equal(pooled(texts, tokenizer, encoder), out.pooler_output)

def test_words_before_do_not_see_words_after(library):
    a,b = encode(['a red bag on white','a red coat on black'], library.tokenizer, library.text_encoder)
    assert torch.allclose(a[:3], b[:3], atol=1e-5) and not torch.allclose(a[3], b[3], atol=1e-1)

def test_long_texts_are_cut_with_a_warning(library):
    with pytest.warns(UserWarning, match='42 tokens long'): long = encode('bag '*40, library.tokenizer, library.text_encoder)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert torch.equal(encode('bag '*22, library.tokenizer, library.text_encoder), long)

@pytest.mark.parametrize('texts,error', [([], ValueError), (3, TypeError), (None, TypeError), (['a bag', 3], TypeError)])
def test_what_is_no_text(library, clip, texts, error):
    for call in (lambda: encode(texts, library.tokenizer, library.text_encoder), lambda: clip.text_features(texts), lambda: similarity(texts, photo((64,64)))):
        with pytest.raises(error): call()


# Pictures of any form

def test_plain_pictures_stay_as_they_are():
    image = photo((30,20))
    assert np.array_equal(to_rgb(image), image) and to_rgb(image).mode=='RGB'

@pytest.mark.parametrize('mode', ['1','L','P','CMYK','YCbCr','HSV','RGBX'])
def test_modes_without_transparency(mode):
    image = photo((30,20)).convert(mode)
    assert np.array_equal(to_rgb(image), image.convert('RGB'))

@pytest.mark.parametrize('mode', ['LA','RGBA','RGBa'])
def test_transparent_parts_are_white(mode):
    image = photo((30,20)).convert('RGBA')
    image.paste((10,200,30,0), (0,0,15,20))
    seen = np.asarray(to_rgb(image.convert(mode)))
    assert (seen[:,:15]==255).all() and not (seen[:,15:]==255).all()

def test_a_palette_with_a_transparent_colour():
    image = Image.new('P', (4,4), 0)
    image.putpalette([200,10,10, 0,0,250])
    image.paste(1, (0,0,2,4))
    image.info['transparency'] = 0
    assert to_rgb(image).getpixel((3,0))==(255,255,255) and to_rgb(image).getpixel((0,0))==(0,0,250)

@pytest.mark.parametrize('mode', ['I;16','I;16B','I'])
def test_sixteen_bits(mode):
    values = np.array([[0,256,32896,65535]])
    image = Image.frombytes('I;16B', (4,1), values.astype('>u2').tobytes()) if mode=='I;16B' else Image.fromarray(values.astype({'I;16':np.uint16,'I':np.int32}[mode]))
    assert image.mode==mode
    assert np.asarray(to_rgb(image))[0,:,1].tolist()==[0,1,128,255]

def test_photos_are_turned_upright(tmp_path):
    image,exif = photo((30,20)),Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path/'turned.png', exif=exif)
    assert to_rgb(Image.open(tmp_path/'turned.png')).size==(20,30)

@pytest.mark.parametrize('mode', ['F','LAB'])
def test_modes_that_are_refused(mode):
    with pytest.raises(ValueError, match=mode): to_rgb(Image.new(mode, (8,8)))

def sizes(side): return st.sampled_from([side, dict(shortest_edge=side), dict(height=side, width=side+5)])

@some
@given(st.integers(8,90), st.integers(8,90), sizes(32), st.sampled_from([32, dict(height=32, width=32), dict(height=41, width=27)]), st.sampled_from([0,2,3]),
    st.sampled_from(['RGB','L','P','RGBA']), st.booleans(), st.booleans())
def test_preprocessing_is_that_of_transformers(w, h, size, crop, resample, mode, do_resize, do_center_crop):
    config = dict(size=size, crop_size=crop, resample=resample, do_resize=do_resize, do_center_crop=do_center_crop, image_mean=[.48,.46,.41], image_std=[.27,.26,.28])
    image = photo((w,h), mode)
    theirs = CLIPImageProcessor(**config)(image, return_tensors='pt').pixel_values[0]
    assert torch.allclose(preprocess(image, config), theirs, atol=1e-5)

def test_preprocessing_by_default_is_openai_s():
    theirs = CLIPImageProcessor()
    config = dict(image_mean=list(theirs.image_mean), image_std=list(theirs.image_std))
    assert torch.allclose(preprocess(photo((300,180)), config), theirs(photo((300,180)), return_tensors='pt').pixel_values[0], atol=1e-5)


# Texts and pictures

def test_similarity_is_that_of_transformers(clip):
    images,labels = real_pictures()
    texts = [label['caption'] for label in labels[:7]]
    processor = CLIPImageProcessor.from_pretrained(embedded_model()/'clip')
    tokens = clip.tokenizer(texts, padding=True, return_tensors='pt')
    with torch.no_grad(): out = clip.model(**tokens, pixel_values=processor(images[:9], return_tensors='pt').pixel_values)
    assert torch.allclose(similarity(texts, images[:9], clip), out.logits_per_text/clip.model.logit_scale.exp(), atol=1e-5)

def test_pictures_in_every_form_give_the_same():
    images = real_pictures()[0][:3]
    arrays = [np.asarray(image) for image in images]
    tensors = torch.stack([torch.tensor(a).permute(2,0,1)/255 for a in arrays])
    wanted = similarity(['a bag','a coat'], images)
    assert wanted.shape==(2,3) and wanted.dtype==torch.float32
    for form in (arrays, tensors, list(tensors), np.stack(arrays), tuple(images)): assert torch.allclose(similarity(['a bag','a coat'], form), wanted, atol=1e-5)
    assert torch.allclose(similarity('a bag', images[1]), wanted[:1,1:2], atol=1e-5)

def test_batches_change_nothing(clip):
    images = real_pictures()[0][:10]
    assert torch.allclose(clip.image_features(images, batch_size=3), clip.image_features(images), atol=1e-5)

def test_any_folder_of_a_clip(other):
    images = [photo((80,50)), photo((48,48), seed=1)]
    model = CLIPModel.from_pretrained(other).eval()
    tokens = CLIPTokenizer.from_pretrained(other)(['a bag','boot'], padding=True, return_tensors='pt')
    with torch.no_grad(): out = model(**tokens, pixel_values=CLIPImageProcessor.from_pretrained(other)(images, return_tensors='pt').pixel_values)
    for folder in (other, str(other), other.parent): assert torch.allclose(similarity(['a bag','boot'], images, folder), out.text_embeds@out.image_embeds.T, atol=1e-5)

@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision(clip, dtype):
    half = CLIP.from_pretrained(device='cpu', dtype=dtype)
    images = real_pictures()[0][:4]
    assert half.image_features(images).dtype==dtype
    assert torch.allclose(similarity(['a bag','a coat'], images, half), similarity(['a bag','a coat'], images, clip), atol=.03)

def test_a_hub_id_is_fetched_once_and_without_pickles(other, monkeypatch):
    import huggingface_hub
    asked = []
    def fetch(name, allow_patterns): asked.append((name, allow_patterns)); return str(other)
    monkeypatch.setattr(huggingface_hub, 'snapshot_download', fetch)
    monkeypatch.setattr(torch, 'load', lambda *a,**k: pytest.fail('something was unpickled'))
    assert CLIP.from_pretrained('openai/clip-vit-base-patch32', device='cpu').model.projection_dim==20
    (name,patterns), = asked
    assert name=='openai/clip-vit-base-patch32' and not any('bin' in p or p=='*' for p in patterns)

@pytest.mark.parametrize('missing', ['config.json','preprocessor_config.json','model.safetensors'])
def test_a_folder_with_something_missing(tmp_path, missing):
    (other_clip(tmp_path)/missing).unlink()
    (tmp_path/'pytorch_model.bin').write_bytes(b'no pickles, please')
    with pytest.raises(FileNotFoundError, match='preprocessor_config.json'): CLIP.from_pretrained(tmp_path)

def test_half_a_clip_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file
    file = other_clip(tmp_path)/'model.safetensors'
    save_file({k:v for k,v in load_file(file).items() if not k.startswith('vision_model.encoder.layers.1')}, file, metadata=dict(format='pt'))
    with pytest.raises(ValueError, match='weights are missing'): CLIP.from_pretrained(tmp_path)

@pytest.mark.parametrize('images,error', [([], ValueError), ('bag.png', TypeError), (3, TypeError), ([3], TypeError), (torch.zeros(2,5,8,8), ValueError)])
def test_what_is_no_picture(images, error):
    with pytest.raises(error): similarity('a bag', images)

def test_what_was_measured_is_what_one_sees():
    zero = measured('clip')['zero_shot']
    images,labels = real_pictures()
    names = measured('clip')['names']['garments']
    said = similarity(names, images).argmax(0)
    live = np.mean([names[i]==label['garment'] for i,label in zip(said, labels)])
    assert abs(live - np.mean(zero['ways']['bag']['held out']))<.12
    for kind in ('trained on','held out'):
        counts = np.array(zero['garments'][kind])
        assert counts.sum()==zero['n']*3 and counts.trace()/counts.sum()==pytest.approx(np.mean(zero['ways']['bag'][kind]))
