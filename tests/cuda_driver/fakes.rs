//! The stand-ins, compiled, and processes that load them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use tinyllm::backend::cuda::driver::Precision;
use tinyllm::backend::cuda::{Cuda, nvidia};

const LIBRARIES: [(&str, &str); 3] = [("cuda", "libcuda.so"), ("nvrtc", "libnvrtc.so"), ("cublaslt", "libcublasLt.so")];

fn shim() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/shim")
}

/// A folder with the stand-ins, `None` where there is no g++ to make them.
pub fn folder() -> Option<&'static Path> {
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    FOLDER
        .get_or_init(|| {
            if !Command::new("g++").arg("--version").output().is_ok_and(|o| o.status.success()) {
                eprintln!("skipped: there is no g++ here to make stand-ins for CUDA's libraries");
                return None;
            }
            let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fakes-{}", std::process::id()));
            std::fs::create_dir_all(&folder).unwrap();
            let build = |(source, library): (&str, &str)| {
                let mut command = Command::new("g++");
                command.args(["-std=c++17", "-O2", "-fPIC", "-shared", "-w", "-o"]).arg(folder.join(library));
                command.arg(shim().join("fake").join(source).with_extension("cpp")).arg("-ldl").spawn().unwrap()
            };
            for mut child in LIBRARIES.map(build) {
                assert!(child.wait().unwrap().success());
            }
            Some(folder)
        })
        .as_deref()
}

/// A folder with some of the stand-ins.
pub fn some(libraries: &[&str]) -> Option<tempfile::TempDir> {
    let (all, folder) = (folder()?, tempfile::tempdir().unwrap());
    for library in libraries {
        std::fs::copy(all.join(library), folder.path().join(library)).unwrap();
    }
    Some(folder)
}

/// Makes a command load the stand-ins, with a cache of its own.
pub fn loads<'a>(command: &'a mut Command, libraries: &Path, cache: &Path) -> &'a mut Command {
    command.env("LD_LIBRARY_PATH", libraries).env("TINYLLM_SHIM", shim()).env("XDG_CACHE_HOME", cache)
}

const INNER: &str = "TINYLLM_TEST_OVER_FAKES";

/// Whether this is the process that a test made of itself.
pub fn inside() -> bool {
    std::env::var_os(INNER).is_some()
}

/// This test as a process of its own, `name` being its path; what came of it.
pub fn again(name: &str, libraries: &Path, cache: &Path, environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([name, "--exact", "--nocapture", "--test-threads=1"]).env(INNER, "1");
    loads(&mut command, libraries, cache).envs(environment.iter().copied()).output().unwrap()
}

/// Runs `body` over the stand-ins: in the outer process it starts an inner one and returns what that said; in the inner one it
/// is the body that runs.
pub fn over(name: &str, environment: &[(&str, &str)], body: impl FnOnce()) -> Option<String> {
    if inside() {
        body();
        return None;
    }
    let cache = tempfile::tempdir().unwrap();
    let out = again(name, folder()?, cache.path(), environment);
    let said = crate::small_run::said(&out);
    assert!(out.status.success(), "{said}");
    assert!(said.contains("1 passed"), "no test is named {name}: {said}");
    Some(said)
}

/// The real driver.
pub fn cuda(precision: Precision) -> Cuda {
    Cuda::new(nvidia::open(precision, &[]).unwrap())
}
