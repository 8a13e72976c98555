"""Number formats of weights: rounding, calibrated rounding, and the layouts that checkpoints store them in.

What is done about outliers. Activations that meet int8 or int4 weights are int8, with a scale for each 128 inputs of a
row, by the largest of them: an outlier coarsens the 127 beside it and no others, and nothing is cut. Weights of 4 bits
have a scale for each 32 or 128 inputs: of several, the one of least squared error, which may cut the group's largest
(`nearest` counts all errors alike, `gptq` by how large the inputs are; the latter alone is the method "clip"). GPTQ
rounds the inputs of largest moment first and makes up for each error in those after it. Weights of 8 bits have a scale
for each output, or for each group, by the largest weight.

What is taken of papers. QServe (arXiv:2405.04532): 4-bit weights times 8-bit activations in integers; not its scales of
two levels, its smoothing of keys, its rotation and reordering of channels, nor keys and values of 4 bits. Dual Grained
Quantization (arXiv:2310.04836): integer products over groups of 4-bit weights; but a group's sum is scaled in float32
where they bring the weights to int8 first, and no percentile of the activations is cut. FlattenQuant
(arXiv:2402.17985): nothing; no channel is split, and no scale spans a tensor. ABQ-LLM (arXiv:2408.08554): nothing; no
products of single bits, and nothing below 4. What is not taken has not been measured here either.

What is measured: ``outthink bench quality --model outthink-s -o results/quality-outthink-s.json``. Perplexity above
bf16, a mean over problems: int4 in groups of 32 0.67% [0.22, 1.21] by GPTQ, 1.22% [0.58, 1.93] to nearest; int8 0.08%
[-0.18, 0.35] by GPTQ, 0.00% [-0.26, 0.26] to nearest. Of outthink-m the interval of every format holds 0. So by default
``outthink quantize`` rounds 4 bits by GPTQ, and 8 to nearest.
"""
