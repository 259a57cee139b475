"CLIP beside transformers and diffusers: the networks, and any text and any picture."
import warnings
import numpy as np, pytest, torch, transformers
from diffusers import StableDiffusionPipeline
from hypothesis import given, settings, strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPTextConfig, CLIPTokenizer
from miniai.clip import *
from miniai.core import embedded_model
from miniai.pipeline import encode_text, tokenize

try: from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil as CLIPImageProcessor
except ImportError: from transformers import CLIPImageProcessor

some = settings(deadline=None, derandomize=True, max_examples=30)
transformers.logging.disable_progress_bar()

@pytest.fixture(scope='module')
def library(sd):
    pipe = StableDiffusionPipeline(**vars(sd), safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    if not hasattr(pipe.text_encoder, 'text_model'): pipe.text_encoder.__dict__['text_model'] = pipe.text_encoder # where diffusers looks for the norm
    pipe.set_progress_bar_config(disable=True)
    return pipe

@pytest.fixture(scope='module')
def clip(): return CLIP.from_pretrained(device='cpu')

@pytest.fixture(scope='module')
def encoder(): return CLIPTextModel.from_pretrained(embedded_model(), 'text_encoder')

def other_clip(folder, seed=0):
    "A folder of a CLIP of another shape, with random weights"
    torch.manual_seed(seed)
    tokenizer = CLIPTokenizer.from_pretrained(embedded_model()/'tokenizer')
    text = dict(hidden_size=32, intermediate_size=48, num_attention_heads=4, num_hidden_layers=2, vocab_size=len(tokenizer), max_position_embeddings=24,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    vision = dict(hidden_size=24, intermediate_size=32, num_attention_heads=2, num_hidden_layers=2, image_size=48, patch_size=12)
    transformers.CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=20)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor(size=48, crop_size=48).save_pretrained(folder)
    return folder

@pytest.fixture(scope='module')
def other(tmp_path_factory): return other_clip(tmp_path_factory.mktemp('other')/'clip')

def photo(size, mode='RGB', seed=0):
    "Noise with large patches in it"
    values = np.random.default_rng(seed).integers(0, 256, (9,7,3), dtype=np.uint8)
    return Image.fromarray(values).resize(size, Image.BICUBIC).convert(mode)


# The networks

def close(ours, theirs, tol=1e-4): return (ours-theirs).abs().max()<=tol*theirs.abs().max()

def same_shapes(ours, theirs):
    shapes = lambda network: {k:tuple(v.shape) for k,v in network.state_dict().items()}
    return shapes(ours)==shapes(theirs)

def same_gradients(ours, theirs, outputs):
    "Are the gradients of a random weighted sum of the outputs the same, measured by the largest of them?"
    for network,out in zip((ours,theirs), outputs):
        weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(3))
        network.zero_grad()
        (out*weights).sum().backward()
    theirs = {k:p.grad for k,p in theirs.named_parameters() if p.grad is not None}
    largest = max(g.abs().max() for g in theirs.values())
    return all((p.grad-theirs[k]).abs().max()<=1e-4*largest for k,p in ours.named_parameters() if k in theirs)

layers = st.fixed_dictionaries(dict(num_hidden_layers=st.integers(1,4), intermediate_size=st.integers(1,70), hidden_act=st.sampled_from(['gelu','quick_gelu']),
    layer_norm_eps=st.sampled_from([1e-5,1e-3])))

@st.composite
def text_configs(draw):
    heads,vocab = draw(st.integers(1,4)),draw(st.integers(10,60))
    return dict(draw(layers), num_attention_heads=heads, hidden_size=heads*draw(st.integers(2,12)), vocab_size=vocab, max_position_embeddings=draw(st.integers(5,20)),
        eos_token_id=draw(st.sampled_from([2, vocab-1])), bos_token_id=0, pad_token_id=1)

@st.composite
def vision_configs(draw):
    heads,patch = draw(st.integers(1,4)),draw(st.integers(2,7))
    return dict(draw(layers), num_attention_heads=heads, hidden_size=heads*draw(st.integers(2,12)), patch_size=patch, image_size=patch*draw(st.integers(1,4))+draw(st.integers(0,1)),
        num_channels=draw(st.sampled_from([1,3])))

def random_texts(config, n, seed):
    "Ids that end, each row somewhere, and the mask of what stands before"
    gen,length = torch.Generator().manual_seed(seed),config['max_position_embeddings']
    ids,ends = torch.randint(3, config['vocab_size']-1, (n,length), generator=gen),torch.randint(1, length, (n,), generator=gen)
    ids[torch.arange(n),ends] = config['vocab_size']-1
    return ids,(torch.arange(length)<=ends[:,None]).long()

@pytest.mark.this_machine('parity')
@some
@given(text_configs(), st.integers(1,3), st.booleans(), st.integers(0,10**6))
def test_the_text_half_is_transformers(config, n, masked, seed):
    torch.manual_seed(seed)
    theirs = transformers.CLIPTextModel(CLIPTextConfig(**config)).eval()
    ours = CLIPTextModel(**config).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    ids,mask = random_texts(config, n, seed)
    mask = mask if masked else None
    a,b = ours(ids, mask),theirs(ids, attention_mask=mask, output_hidden_states=True)
    assert close(a.last_hidden_state, b.last_hidden_state, 1e-5) and close(a.pooler_output, b.pooler_output, 1e-5)
    assert len(a.hidden_states)==len(b.hidden_states) and all(close(x, y, 1e-5) for x,y in zip(a.hidden_states, b.hidden_states))
    assert same_gradients(ours, theirs, (a.last_hidden_state,b.last_hidden_state))
    theirs.load_state_dict(ours.state_dict(), strict=True)

@pytest.mark.this_machine('parity')
@some
@given(text_configs(), vision_configs(), st.integers(1,12), st.integers(1,3), st.integers(1,3), st.integers(0,10**6))
def test_both_halves_are_transformers(text, vision, dim, n, m, seed):
    torch.manual_seed(seed)
    config = dict(text_config=text, vision_config=vision, projection_dim=dim)
    theirs,ours = transformers.CLIPModel(CLIPConfig(**config)).eval(),CLIPModel(**config).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    pixels = torch.randn(m, vision['num_channels'], vision['image_size'], vision['image_size'])
    ids,mask = random_texts(text, n, seed)
    a,b = ours(ids, pixels, mask),theirs(input_ids=ids, pixel_values=pixels, attention_mask=mask)
    for name in a._fields: assert close(getattr(a, name), b[name], 1e-5)
    assert same_gradients(ours, theirs, (a.logits_per_image,b.logits_per_image))
    theirs.load_state_dict(ours.state_dict(), strict=True)

sd15 = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, hidden_act='quick_gelu', eos_token_id=2, bos_token_id=0, projection_dim=768)
sd21 = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16, hidden_act='gelu', eos_token_id=2, bos_token_id=0)

@pytest.mark.parametrize('config', [sd15,sd21], ids=['1.5','2.1'])
def test_full_size_has_the_library_s_names_and_shapes(config):
    with torch.device('meta'): ours,theirs = CLIPTextModel(**config),transformers.CLIPTextModel(CLIPTextConfig(**config))
    assert same_shapes(ours, theirs)
    if config is sd15: assert sum(p.numel() for p in ours.parameters())==123_060_480

def test_openai_s_model_has_the_library_s_names_and_shapes():
    config = dict(text_config=sd15, vision_config=dict(hidden_size=1024, intermediate_size=4096, num_attention_heads=16, num_hidden_layers=24, patch_size=14), projection_dim=768)
    with torch.device('meta'): assert same_shapes(CLIPModel(**config), transformers.CLIPModel(CLIPConfig(**config)))

def test_the_embedded_models_are_read_as_transformers_reads_them(encoder, library, clip):
    ids = tokenize(['a red house on a blue background','','zebra, 3 ducks'], library.tokenizer).input_ids
    with torch.no_grad(): assert close(encoder(ids).last_hidden_state, library.text_encoder(ids).last_hidden_state)
    theirs = transformers.CLIPModel.from_pretrained(embedded_model()/'clip', dtype=torch.float32).eval()
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(): assert close(clip.model(ids, pixels).logits_per_image, theirs(input_ids=ids, pixel_values=pixels).logits_per_image)

def test_older_files_have_a_prefix_and_number_the_positions(encoder):
    older = {f'text_model.{k}':v for k,v in encoder.state_dict().items()} | {'text_model.embeddings.position_ids':torch.arange(24)[None]}
    again = CLIPTextModel(**encoder.config)
    again.load_state_dict(older, strict=True)
    assert all(torch.equal(v, again.state_dict()[k]) for k,v in encoder.state_dict().items())

def test_older_configurations_are_full_of_notes():
    notes = dict(_name_or_path='', architectures=['CLIPTextModel'], add_cross_attention=False, bad_words_ids=None, chunk_size_feed_forward=0, do_sample=False, id2label={'0':'LABEL_0'},
        label2id={'LABEL_0':0}, length_penalty=1., max_length=20, num_beams=1, num_beam_groups=1, num_return_sequences=1, repetition_penalty=1., return_dict=True, temperature=1.,
        tie_word_embeddings=True, top_k=50, top_p=1., typical_p=1., torch_dtype='float32', transformers_version='4.21.0', model_type='clip_text_model', dropout=0., pruned_heads={})
    with torch.device('meta'):
        ours = CLIPModel(text_config=dict(sd15, **notes), text_config_dict=dict(hidden_size=64, num_attention_heads=4, intermediate_size=8, num_hidden_layers=1), vision_config=notes)
    assert ours.config.text_config.hidden_size==64 and ours.config.vision_config.hidden_size==768

@pytest.mark.parametrize('entry', [dict(hidden_act='relu'), dict(attention_dropout=.1), dict(rope_theta=10000.)])
def test_what_is_not_implemented_is_refused_by_name(entry):
    with pytest.raises(ValueError, match=next(iter(entry))): CLIPTextModel(**sd21 | entry)

def test_training_starts_as_the_library_starts():
    config = dict(text_config=dict(hidden_size=64, num_attention_heads=2, num_hidden_layers=3, intermediate_size=256, vocab_size=500),
        vision_config=dict(hidden_size=64, num_attention_heads=2, num_hidden_layers=2, intermediate_size=256, image_size=64, patch_size=8), projection_dim=64)
    torch.manual_seed(0)
    ours,theirs = CLIPModel(**config),transformers.CLIPModel(CLIPConfig(**config)).state_dict()
    for name,p in ours.state_dict().items():
        if p.numel()>1000: assert p.std().item()==pytest.approx(theirs[name].std().item(), rel=.2), name
        elif name.endswith('bias') or 'norm' in name: assert torch.equal(p, theirs[name]), name

def test_the_library_draws_the_same_with_our_text_half(library, encoder):
    run = dict(num_inference_steps=2, guidance_scale=3., output_type='np')
    draw = lambda **kwargs: library('a red house', generator=torch.Generator().manual_seed(0), **run, **kwargs).images
    wanted,theirs = draw(),library.text_encoder
    library.text_encoder = encoder
    try: assert np.abs(draw()-wanted).max()<1/255
    finally: library.text_encoder = theirs


# Texts

@pytest.mark.parametrize('clip_skip', [None,0,1,2,3])
def test_layers_are_those_of_diffusers(library, encoder, clip_skip):
    prompts = ['a purple castle on a grey background', '', 'zebra, 3 ducks']
    theirs = library.encode_prompt(prompts, 'cpu', 1, False, clip_skip=clip_skip)[0]
    assert close(encode_text(prompts, library.tokenizer, library.text_encoder, clip_skip), theirs)
    assert close(encode_text(prompts, library.tokenizer, encoder, clip_skip), theirs)

@pytest.mark.parametrize('bad', [-1, 4, 1.5, 'last'])
def test_layers_that_there_are_not(library, bad):
    with pytest.raises((ValueError,TypeError), match='clip_skip.*at most 3'): encode_text('a cat', library.tokenizer, library.text_encoder, bad)

@pytest.mark.parametrize('config', [dict(eos_token_id=2), {}, dict(use_attention_mask=True)], ids=['before 2023','now','masked'])
@pytest.mark.parametrize('pad', ['<|endoftext|>','!'])
def test_other_text_encoders(config, pad):
    tokenizer = CLIPTokenizer.from_pretrained(embedded_model()/'tokenizer', pad_token=pad)
    torch.manual_seed(0)
    config = dict(eos_token_id=tokenizer.eos_token_id, vocab_size=len(tokenizer)) | config
    theirs = transformers.CLIPTextModel(CLIPTextConfig(hidden_size=32, intermediate_size=48, num_attention_heads=4, num_hidden_layers=5, max_position_embeddings=24, **config)).eval()
    ours = CLIPTextModel(**theirs.config.to_dict()).eval()
    ours.load_state_dict(theirs.state_dict())
    texts = ['a red cat', 'trousers']
    tokens = tokenizer(texts, padding='max_length', max_length=24, return_tensors='pt')
    mask = dict(attention_mask=tokens.attention_mask) if 'use_attention_mask' in config else {}
    with torch.no_grad(): out = theirs(tokens.input_ids, output_hidden_states=True, **mask)
    for network in (ours,theirs):
        assert close(encode_text(texts, tokenizer, network), out.last_hidden_state)
        assert close(encode_text(texts, tokenizer, network, 4), theirs.final_layer_norm(out.hidden_states[1]))

def test_words_before_do_not_see_words_after(library, encoder):
    a,b = encode_text(['a red cat on white','a red dog on black'], library.tokenizer, encoder)
    assert close(a[:3], b[:3]) and not close(a[3], b[3], .05)

def test_long_texts_are_cut_with_a_warning(library, clip):
    with pytest.warns(UserWarning, match='cut off'): long = clip.text_features('cat '*40)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert close(clip.text_features('cat '*22), long)

@pytest.mark.parametrize('texts,error', [([], ValueError), (3, TypeError), (None, TypeError), (['a cat', 3], TypeError)])
def test_what_is_no_text(clip, texts, error):
    for call in (lambda: clip.text_features(texts), lambda: similarity(texts, photo((64,64)))):
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
    assert close(preprocess(image, config), theirs)

@pytest.mark.parametrize('w,h,side', [(98,120,64), (428,500,224), (207,414,224)])
def test_no_side_is_a_pixel_short(w, h, side):
    "Rounding: int(428*(224/428)) is 223"
    config = dict(size=side, do_center_crop=False, resample=3, image_mean=[.48,.46,.41], image_std=[.27,.26,.28])
    theirs = CLIPImageProcessor(**config)(photo((w,h)), return_tensors='pt').pixel_values[0]
    assert close(preprocess(photo((w,h)), config), theirs)

def test_preprocessing_by_default_is_openai_s():
    theirs = CLIPImageProcessor()
    config = dict(image_mean=list(theirs.image_mean), image_std=list(theirs.image_std))
    assert torch.allclose(preprocess(photo((300,180)), config), theirs(photo((300,180)), return_tensors='pt').pixel_values[0], atol=1e-4)


# Texts and pictures

def test_similarity_is_that_of_transformers(clip, photos):
    texts = ['a purple castle', 'an owl on a grey background', 'a dog to the left of a cat']
    processor = CLIPImageProcessor.from_pretrained(embedded_model()/'clip')
    tokens = CLIPTokenizer.from_pretrained(embedded_model()/'clip')(texts, padding=True, return_tensors='pt')
    theirs = transformers.CLIPModel.from_pretrained(embedded_model()/'clip', dtype=torch.float32).eval()
    with torch.no_grad(): out = theirs(**tokens, pixel_values=processor(photos[:9], return_tensors='pt').pixel_values)
    assert torch.allclose(similarity(texts, photos[:9], clip), out.text_embeds@out.image_embeds.T, atol=1e-4)

def test_pictures_in_every_form_give_the_same(clip, photos):
    images,texts = photos[:3],['a cat','a dog']
    arrays = [np.asarray(image) for image in images]
    tensors = torch.stack([torch.tensor(a).permute(2,0,1)/255 for a in arrays])
    wanted = similarity(texts, images, clip)
    assert wanted.shape==(2,3) and wanted.dtype==torch.float32
    for form in (arrays, tensors, list(tensors), np.stack(arrays), tuple(images)): assert torch.allclose(similarity(texts, form, clip), wanted, atol=1e-4)
    assert torch.allclose(similarity('a cat', images[1]), wanted[:1,1:2], atol=1e-4)

def test_batches_change_nothing(clip, photos):
    assert close(clip.image_features(photos[:10], batch_size=3), clip.image_features(photos[:10]))

def test_any_folder_of_a_clip(other):
    images = [photo((80,50)), photo((48,48), seed=1)]
    model = transformers.CLIPModel.from_pretrained(other).eval()
    tokens = CLIPTokenizer.from_pretrained(other)(['a cat','castle'], padding=True, return_tensors='pt')
    with torch.no_grad(): out = model(**tokens, pixel_values=CLIPImageProcessor.from_pretrained(other)(images, return_tensors='pt').pixel_values)
    for folder in (other, str(other), other.parent): assert torch.allclose(similarity(['a cat','castle'], images, CLIP.from_pretrained(folder)), out.text_embeds@out.image_embeds.T, atol=1e-4)

@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision(clip, photos, dtype):
    half,texts = CLIP.from_pretrained(device='cpu', dtype=dtype),['a cat','a dog']
    assert half.image_features(photos[:4]).dtype==dtype
    assert torch.allclose(similarity(texts, photos[:4], half), similarity(texts, photos[:4], clip), atol=.03)

def test_a_hub_id_is_fetched_once_and_without_pickles(other, monkeypatch):
    import huggingface_hub
    asked = []
    def fetch(name, allow_patterns): asked.append((name, allow_patterns)); return str(other)
    monkeypatch.setattr(huggingface_hub, 'snapshot_download', fetch)
    monkeypatch.setattr(torch, 'load', lambda *a,**k: pytest.fail('something was unpickled'))
    assert CLIP.from_pretrained('openai/clip-vit-base-patch32', device='cpu').model.config.projection_dim==20
    (name,patterns), = asked
    assert name=='openai/clip-vit-base-patch32' and not any('bin' in p or p=='*' for p in patterns)

@pytest.mark.parametrize('missing', ['config.json','preprocessor_config.json','model.safetensors'])
def test_a_folder_with_something_missing(tmp_path, missing):
    (other_clip(tmp_path)/missing).unlink()
    (tmp_path/'pytorch_model.bin').write_bytes(b'no pickles, please')
    with pytest.raises(FileNotFoundError, match='pytorch_model.bin' if missing.endswith('safetensors') else missing): CLIP.from_pretrained(tmp_path)

def test_half_a_clip_is_refused(tmp_path):
    file = other_clip(tmp_path)/'model.safetensors'
    save_file({k:v for k,v in load_file(file).items() if not k.startswith('vision_model.encoder.layers.1')}, file, metadata=dict(format='pt'))
    with pytest.raises(ValueError, match='16 missing, such as vision_model.encoder.layers.1'): CLIP.from_pretrained(tmp_path)

@pytest.mark.parametrize('images,error', [([], TypeError), ('cat.png', TypeError), (3, TypeError), ([3], TypeError), (torch.zeros(2,5,8,8), ValueError)])
def test_what_is_no_picture(images, error):
    with pytest.raises(error): similarity('a cat', images)
