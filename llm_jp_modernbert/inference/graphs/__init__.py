"""The packed model as a graph for OpenVINO and ONNX Runtime."""
