"""A student that came as an ONNX file: reading it, what is inside, folding it, and the recipe that it stands for."""
