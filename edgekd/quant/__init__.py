"""Quantization: the grids, where quantize/dequantize pairs go, PTQ and QAT, and the program as ONNX for a runtime.

In the order a student passes through: `grid` (which numbers), `quantizer` (which tensors), `adapter` (observe, then
fake-quantize), `pt2e` (prepare, calibrate, train, convert), `onnx_export`, `rebase` (for ONNX Runtime on x86).
"""
