"""Names for the tensor shapes that the whole package speaks of."""

from jaxtyping import Float, Int
from torch import Tensor

#: Images or eps: (B, C, H, W) float.
Images = Float[Tensor, "batch channels height width"]
#: Several edits of each image, in blocks of the batch: (copies * B, C, H, W) float.
Edits = Float[Tensor, "edits channels height width"]
#: A share in [0, 1] for every place: (1, 1, H, W) float.
Mask = Float[Tensor, "1 1 height width"]
#: One coefficient per sample, ready to broadcast over images.
Coef = Float[Tensor, "batch 1 1 1"]
#: The U-Net's bottleneck activation, h-space.
BottleneckH = Float[Tensor, "batch h_channels h_height h_width"]
#: The U-Net's time embedding, after its second Linear.
TimeEmbedding = Float[Tensor, "batch temb_channels"]
#: Time steps, int64, -1 means clean.
Timesteps = Int[Tensor, " batch"]
#: A table over all training timesteps.
Table = Float[Tensor, " num_train_timesteps"]
#: One number per sample.
PerSample = Float[Tensor, " batch"]
#: CLIP embeddings.
Embeddings = Float[Tensor, "batch embed_dim"]
#: One embedding that holds for the whole batch.
Embedding = Float[Tensor, "1 embed_dim"]
#: Class index per sample and label, -1 where the label does not apply.
Labels = Int[Tensor, "batch labels"]
