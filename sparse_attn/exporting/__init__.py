"""Models as files that run without this package: ONNX, torch.export and AOTInductor, for every image size."""

from sparse_attn.exporting.exporter import ExportReport, check_target, export

__all__ = ["ExportReport", "check_target", "export"]
