"Stable Diffusions of random weights, in folders as the real ones: what they draw is noise, but shapes, files and sums are real."
import json, shutil, torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel
from miniai.core import embedded_model

sd15_scheduler = dict(beta_start=.00085, beta_end=.012, beta_schedule='scaled_linear', skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1)
sd15_blocks = dict(down_block_types=('CrossAttnDownBlock2D',)*3 + ('DownBlock2D',), up_block_types=('UpBlock2D',) + ('CrossAttnUpBlock2D',)*3)
sd15_text = dict(hidden_act='quick_gelu', vocab_size=49408, max_position_embeddings=77, bos_token_id=0, eos_token_id=2, pad_token_id=1)

def sd15(width=1):
    "The configuration of Stable Diffusion 1.5 (CompVis), or with layers `width` times narrower and pictures `width` times smaller"
    text = dict(hidden_size=768//width, intermediate_size=3072//width, num_hidden_layers=12//min(width,4), num_attention_heads=12//min(width,4), **sd15_text)
    unet = dict(sample_size=64//width, layers_per_block=2//min(width,2), block_out_channels=tuple(c//width for c in (320,640,1280,1280)), cross_attention_dim=768//width,
        attention_head_dim=8, norm_num_groups=32//width, **sd15_blocks)
    vae = dict(sample_size=512//width, layers_per_block=2, block_out_channels=tuple(c//width for c in (128,256,512,512)), norm_num_groups=32//width)
    return text,unet,vae,{}

def random_folder(folder, text, unet, vae, scheduler):
    "A Stable Diffusion of random weights in `folder`, with the embedded model's vocabulary"
    torch.manual_seed(0)
    blocks = ('DownEncoderBlock2D',)*4, ('UpDecoderBlock2D',)*4
    CLIPTextModel(CLIPTextConfig(**text)).save_pretrained(folder/'text_encoder')
    UNet2DConditionModel(**unet).save_pretrained(folder/'unet')
    AutoencoderKL(down_block_types=blocks[0], up_block_types=blocks[1], scaling_factor=.18215, **vae).save_pretrained(folder/'vae')
    PNDMScheduler(**sd15_scheduler, **scheduler).save_pretrained(folder/'scheduler')
    change(folder/'scheduler/scheduler_config.json', clip_sample=False)
    shutil.copytree(embedded_model()/'tokenizer', folder/'tokenizer')
    change(folder/'tokenizer/tokenizer_config.json', model_max_length=text['max_position_embeddings'])
    write_index(folder, 'PNDMScheduler')
    return folder

def write_index(folder, scheduler):
    "The file that tells the library what is in the folder"
    parts = dict(text_encoder=['transformers','CLIPTextModel'], tokenizer=['transformers','CLIPTokenizer'], unet=['diffusers','UNet2DConditionModel'],
        vae=['diffusers','AutoencoderKL'], scheduler=['diffusers',scheduler], safety_checker=[None,None], feature_extractor=[None,None])
    (folder/'model_index.json').write_text(json.dumps({'_class_name':'StableDiffusionPipeline', 'requires_safety_checker':False, **parts}))

def change(file, **entries):
    "Set entries of a JSON file"
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))

# Tiny models of the two architectures, with the embedded model's vocabulary

tokens = json.loads((embedded_model()/'tokenizer/vocab.json').read_text())
short = dict(vocab_size=len(tokens), max_position_embeddings=24, bos_token_id=tokens['<|startoftext|>'], eos_token_id=tokens['<|endoftext|>'], pad_token_id=tokens['<|endoftext|>'])
small = dict(sample_size=8, layers_per_block=1, norm_num_groups=8, down_block_types=('CrossAttnDownBlock2D','DownBlock2D'), up_block_types=('UpBlock2D','CrossAttnUpBlock2D'))
text15 = dict(short, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, hidden_act='quick_gelu')
text21 = dict(short, hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, hidden_act='gelu', projection_dim=16)
unet15 = dict(small, block_out_channels=(16,32), cross_attention_dim=32, attention_head_dim=4)
unet21 = dict(small, block_out_channels=(16,32), cross_attention_dim=48, attention_head_dim=[2,4], use_linear_projection=True, upcast_attention=True)
tiny_vae = dict(block_out_channels=(8,8,16,16), norm_num_groups=4, sample_size=64, layers_per_block=1)

def tiny_folders(new_folder):
    "Model folders by name, made in the folders that `new_folder(name)` gives"
    new = lambda name,text,unet,**scheduler: random_folder(new_folder(name), text, unet, tiny_vae, scheduler)
    return dict(embedded=embedded_model(),
        sd15=new('sd15', text15, unet15),
        sd21=new('sd21', text21, unet21, prediction_type='v_prediction'),
        masked=new('masked', dict(text15, use_attention_mask=True), unet15),
        distilled=new('distilled', text15, dict(unet15, time_cond_proj_dim=24)))
