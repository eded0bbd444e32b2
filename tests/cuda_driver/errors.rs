//! What can go wrong on a device, and what is said then.

use crate::common::Twin;
use crate::fakes::{again, cuda, folder, inside, over, some};
use crate::small_run::said;
use tinyllm::backend::cuda::driver::{Arg, Kernel, Precision, Shape};
use tinyllm::backend::cuda::{Cuda, nvidia, sources};
use tinyllm::backend::{Backend, BackendError};

fn axpy(be: &Cuda, y: &mut Twin, x: &Twin) {
    be.axpy(&mut y.cuda, 1.0, &x.cuda, 8);
}

/// The second `axpy` fails; `gelu` follows it.
fn fails(be: &Cuda) -> BackendError {
    let (x, mut y) = (Twin::normal(be, 1, 8, 1.0), Twin::normal(be, 2, 8, 1.0));
    axpy(be, &mut y, &x);
    be.sync().unwrap();
    let acc = be.alloc_acc(1).unwrap();
    let early = be.read_late(&[&acc]).unwrap();
    axpy(be, &mut y, &x);
    be.gelu(&mut y.cuda, &x.cuda, 8);
    let error = be.take(early).unwrap_err();
    assert_eq!(be.sync().unwrap_err().to_string(), error.to_string());
    // Nothing more comes of such a device.
    assert!(be.alloc(8).is_err() && be.upload(&mut y.cuda, &[1.0]).is_err() && be.read_late(&[&acc]).is_err() && be.sync().is_err());
    error
}

#[test]
fn a_failed_device_names_what_was_launched_last() {
    over("errors::a_failed_device_names_what_was_launched_last", &[("FAKE_CUDA_FAIL", "axpy:2")], || {
        let error = fails(&cuda(Precision::Bf16)).to_string();
        for words in ["GPU: an illegal memory access", "the kernel axpy of kernels/elements.cu was launched last", "TINYLLM_CUDA_SYNC=1"] {
            assert!(error.contains(words), "{error}");
        }
    });
}

#[test]
fn each_order_waited_for_names_the_one() {
    let environment = [("FAKE_CUDA_FAIL", "axpy:2"), ("TINYLLM_CUDA_SYNC", "1")];
    over("errors::each_order_waited_for_names_the_one", &environment, || {
        let error = fails(&cuda(Precision::Bf16)).to_string();
        assert!(error.contains("the kernel axpy of kernels/elements.cu failed: an illegal memory access"), "{error}");
    });
}

#[test]
fn a_failure_inside_a_recording_is_told() {
    over("errors::a_failure_inside_a_recording_is_told", &[("FAKE_CUDA_FAIL", "axpy:4")], || {
        let be = cuda(Precision::Bf16);
        let (x, mut y) = (Twin::normal(&be, 1, 8, 1.0), Twin::normal(&be, 2, 8, 1.0));
        for step in 1..=4 {
            be.region(1, &mut || axpy(&be, &mut y, &x));
            assert_eq!(be.sync().is_err(), step == 4, "{step}");
        }
        let error = be.sync().unwrap_err().to_string();
        assert!(error.contains("a recorded sequence was launched before that ends with the kernel axpy"), "{error}");
    });
}

#[test]
fn an_impossible_launch_is_told_once() {
    over("errors::an_impossible_launch_is_told_once", &[], || {
        let be = cuda(Precision::Bf16);
        let (x, mut y) = (Twin::normal(&be, 1, 8, 1.0), Twin::poison(&be, 8));
        let arguments: [Arg; 4] = [y.cuda.ptr().into(), x.cuda.ptr().into(), 1f32.into(), 8u32.into()];
        be.driver().launch(Kernel::new("elements", "axpy"), Shape::of(1, 2048), &arguments);
        be.gelu(&mut y.cuda, &x.cuda, 8);
        let error = be.sync().unwrap_err().to_string();
        assert!(error.contains("the kernel axpy of kernels/elements.cu could not be launched"), "{error}");
        // The device itself is well, and what came after the error was left out.
        be.sync().unwrap();
        let mut back = vec![0.0; 8];
        be.download(&mut back, &y.cuda).unwrap();
        assert!(back.iter().all(|v| v.is_nan()), "{back:?}");
        be.driver().launch(Kernel::new("elements", "nothing"), Shape::of(1, 32), &arguments);
        assert!(be.sync().unwrap_err().to_string().contains("kernels/elements.cu has no nothing"));
    });
}

#[test]
fn memory_runs_out() {
    let megabytes = (100u64 << 20).to_string();
    over("errors::memory_runs_out", &[("FAKE_CUDA_MEMORY", &megabytes)], || {
        let be = cuda(Precision::Bf16);
        let held = be.driver().allocate(40 << 20).unwrap();
        assert!(matches!(be.driver().allocate(40 << 20), Err(BackendError::OutOfMemory { device: "GPU", bytes }) if bytes == 40 << 20));
        be.driver().release(held);
        be.driver().allocate(40 << 20).unwrap();
        let (info, free) = nvidia::find().unwrap();
        // 100 MB less 40 and the 32 of products.
        assert_eq!((info.memory, free), (100 << 20, 28 << 20));
    });
}

/// An error instead of a GPU, with these in the environment; what it says.
fn refused(name: &str, environment: &[(&str, &str)]) -> Option<String> {
    let said = over(name, environment, || {
        let error = nvidia::find().unwrap_err().to_string();
        assert!(nvidia::driver_is_there() && nvidia::open(Precision::Bf16, &[]).is_err_and(|e| e.to_string() == error));
        println!("it says: {error}");
    })?;
    Some(said.split("it says: ").nth(1).unwrap_or_else(|| panic!("{said}")).lines().next().unwrap().to_owned())
}

#[test]
fn an_unfit_machine_is_told() {
    let name = "errors::an_unfit_machine_is_told";
    let cases: [(&str, &str, &[&str]); 4] = [
        ("FAKE_CUDA_DEVICES", "0", &["no GPU that it shows", "CUDA_VISIBLE_DEVICES"]),
        ("FAKE_CUDA_ARCH", "75", &["a processor playing a GPU is of compute capability 7.5", "8.0 (Ampere) or newer"]),
        ("FAKE_CUDA_DRIVER", "12040", &["speaks CUDA 12.4", "12.8 is the oldest", "update the driver"]),
        (
            "FAKE_CUDA_DRIVER",
            "12080",
            &["speaks CUDA 12.8", "NVRTC 13.0 makes code for CUDA 13", "update the NVIDIA driver", "nvidia-cuda-nvrtc-cu12"],
        ),
    ];
    for (variable, value, wanted) in cases {
        if let Some(error) = refused(name, &[(variable, value)]) {
            assert!(wanted.iter().all(|w| error.contains(w)), "{error}");
        }
    }
}

/// Compute capability 12.1, which the stand-in for NVRTC does not know.
#[test]
fn a_gpu_newer_than_the_compiler_is_told() {
    over("errors::a_gpu_newer_than_the_compiler_is_told", &[("FAKE_CUDA_ARCH", "121")], || {
        let unit = sources::units(121, Precision::Bf16, &[64])[0];
        let error = nvidia::open(Precision::Bf16, &[unit]).err().unwrap().to_string();
        assert!(error.contains("NVRTC 13.0 makes no code for a GPU of compute capability 12.1: install a newer one"), "{error}");
    });
}

/// Runs `elements` on what code there is; says so.
fn computes() {
    let be = cuda(Precision::Bf16);
    let (x, mut y) = (Twin::of(&be, &[1.0; 8]), Twin::of(&be, &[2.0; 8]));
    axpy(&be, &mut y, &x);
    let mut back = vec![0.0; 8];
    be.download(&mut back, &y.cuda).unwrap();
    be.sync().unwrap();
    assert_eq!(back, [3.0; 8]);
}

#[test]
fn compiled_kernels_are_kept() {
    if inside() {
        return computes();
    }
    let Some(fakes) = folder() else { return };
    let cache = tempfile::tempdir().unwrap();
    // Where the stand-in for the compiler has no shim it compiles nothing.
    let run = |environment: &[(&str, &str)]| again("errors::compiled_kernels_are_kept", fakes, cache.path(), environment);
    let nowhere = [("TINYLLM_SHIM", "/nowhere")];
    let failed = run(&nowhere);
    let words = said(&failed);
    assert!(!failed.status.success() && words.contains("kernels/elements.cu does not compile for sm_80"), "{words}");
    assert!(words.contains("shim.h: No such file"), "the compiler's own words: {words}");
    assert!(run(&[]).status.success());
    let out = run(&nowhere);
    assert!(out.status.success(), "{}", said(&out));
    // Another device, another code.
    assert!(!run(&[nowhere[0], ("FAKE_CUDA_ARCH", "90")]).status.success());
    // Damage is seen.
    let kept = std::fs::read_dir(cache.path().join("tinyllm")).unwrap().map(|e| e.unwrap().path());
    let cubin = kept.into_iter().find(|p| p.extension().is_some_and(|e| e == "cubin")).unwrap();
    let whole = std::fs::read(&cubin).unwrap();
    std::fs::write(&cubin, &whole[..whole.len() / 2]).unwrap();
    assert!(!run(&nowhere).status.success());
    assert!(run(&[]).status.success());
    assert!(run(&nowhere).status.success());
}

#[test]
fn a_cache_that_cannot_be_written_costs_time_alone() {
    let environment = [("XDG_CACHE_HOME", "/proc/nowhere")];
    let said = over("errors::a_cache_that_cannot_be_written_costs_time_alone", &environment, computes);
    assert!(said.is_none_or(|s| s.contains("compiled kernels cannot be kept")));
}

#[test]
fn without_nvrtc_there_is_what_was_made_ahead() {
    if inside() {
        return computes();
    }
    let name = "errors::without_nvrtc_there_is_what_was_made_ahead";
    let (Some(fakes), Some(bare)) = (folder(), some(&["libcuda.so", "libcublasLt.so"])) else { return };
    let cache = tempfile::tempdir().unwrap();
    let out = again(name, bare.path(), cache.path(), &[]);
    let words = said(&out);
    assert!(!out.status.success() && words.contains("there is no libnvrtc") && words.contains("pip install nvidia-cuda-nvrtc"), "{words}");
    let ready = cache.path().join("ready");
    let mut program = std::process::Command::new(crate::small_run::TRAIN);
    program.args(["kernels", "--arch", "sm_80", "--sizes", "64", "--precision", "bf16", "--out"]).arg(&ready);
    let made = crate::fakes::loads(&mut program, fakes, cache.path()).output().unwrap();
    assert!(made.status.success(), "{}", said(&made));
    for arch in ["80", "89"] {
        let environment = [("TINYLLM_CUBINS", ready.to_str().unwrap()), ("FAKE_CUDA_ARCH", arch)];
        let out = again(name, bare.path(), cache.path(), &environment);
        assert!(out.status.success(), "{arch}: {}", said(&out));
    }
    assert!(
        !again(name, bare.path(), cache.path(), &[("TINYLLM_CUBINS", ready.to_str().unwrap()), ("FAKE_CUDA_ARCH", "90")]).status.success()
    );
}

#[test]
fn without_cublaslt_it_is_said_what_to_install() {
    let name = "errors::without_cublaslt_it_is_said_what_to_install";
    if inside() {
        let error = nvidia::find().unwrap_err().to_string();
        assert!(error.contains("there is no libcublasLt") && error.contains("pip install nvidia-cublas"), "{error}");
        return;
    }
    let Some(bare) = some(&["libcuda.so", "libnvrtc.so"]) else { return };
    let cache = tempfile::tempdir().unwrap();
    let out = again(name, bare.path(), cache.path(), &[]);
    assert!(out.status.success(), "{}", said(&out));
}
