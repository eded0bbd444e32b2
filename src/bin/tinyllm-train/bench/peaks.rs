//! What vendors say their devices can do.

/// Dense bf16 products with f32 sums, in floating-point operations a second, by the name that the driver gives the device: from
/// NVIDIA's data sheets and architecture papers, whose figures with sparsity are twice these. A part of a device (MIG) has another
/// name and is not here.
const DENSE_BF16: [(&str, f64); 20] = [
    ("NVIDIA B200", 2250e12),
    ("NVIDIA GH200 480GB", 989e12),
    ("NVIDIA GH200 120GB", 989e12),
    ("NVIDIA H200", 989e12),
    ("NVIDIA H200 NVL", 835e12),
    ("NVIDIA H100 80GB HBM3", 989e12),
    ("NVIDIA H100 NVL", 835e12),
    ("NVIDIA H100 PCIe", 756e12),
    ("NVIDIA A100-SXM4-40GB", 312e12),
    ("NVIDIA A100-SXM4-80GB", 312e12),
    ("NVIDIA A100-PCIE-40GB", 312e12),
    ("NVIDIA A100-PCIE-80GB", 312e12),
    ("NVIDIA A100 80GB PCIe", 312e12),
    ("NVIDIA A40", 149.7e12),
    ("NVIDIA A10", 125e12),
    ("NVIDIA L40S", 362e12),
    ("NVIDIA L40", 181e12),
    ("NVIDIA L4", 121e12),
    ("NVIDIA GeForce RTX 4090", 165.2e12),
    ("NVIDIA GeForce RTX 3090", 71e12),
];

/// The vendor's figure, where the device is known.
pub fn vendor(device: &str) -> Option<f64> {
    DENSE_BF16.iter().find(|(name, _)| *name == device).map(|&(_, peak)| peak)
}
