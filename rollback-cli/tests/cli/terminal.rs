//! The command in a real terminal: that of tmux, whose screen can be read.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rollback_tests::{Namespace, Testbed};
use tempfile::TempDir;

use crate::{command, deployed, finish, image, shared_journal};

/// A shell in a terminal of 200 by 40. It ends with the test.
struct Terminal {
    folder: TempDir,
}

impl Terminal {
    async fn open(namespace: &Namespace) -> Self {
        let terminal = Self { folder: tempfile::tempdir().unwrap() };
        let programs = Path::new(env!("CARGO_BIN_EXE_rollback")).parent().unwrap();
        let mut rc = String::new();
        for (name, value) in [
            ("PATH", &*format!("{}:{}", programs.display(), std::env::var("PATH").unwrap())),
            ("KUBECONFIG", Testbed::shared().await.kubeconfig().to_str().unwrap()),
            ("ROLLBACK_JOURNAL", shared_journal().to_str().unwrap()),
            ("USER", "tester"),
            ("HOSTNAME", "here"),
            ("N", namespace.name()),
            ("PS1", "$ "),
        ] {
            writeln!(rc, "export {name}='{value}'").unwrap();
        }
        let rc_file = terminal.folder.path().join("rc");
        std::fs::write(&rc_file, rc).unwrap();
        let shell = format!("bash --noprofile --rcfile {}", rc_file.display());
        terminal.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", "200", "-y", "40", &shell]);
        terminal.shows("$").await;
        terminal
    }

    fn tmux(&self, args: &[&str]) -> String {
        let socket = self.folder.path().join("tmux");
        let mut command = Command::new("tmux");
        command
            .arg("-S")
            .arg(socket)
            .args(args)
            .env_remove("TMUX")
            .env("LC_ALL", "C.UTF-8")
            .env("TERM", "xterm");
        let output = command.output().expect("tmux is there: apt-get install tmux");
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What is on the screen.
    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"]).trim_end().to_owned()
    }

    fn presses(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    fn types(&self, line: &str) {
        self.tmux(&["send-keys", "-l", line]);
        self.presses(&["Enter"]);
    }

    async fn shows(&self, text: &str) -> String {
        for _ in 0..300 {
            let screen = self.screen();
            if screen.contains(text) {
                return screen;
            }
            Testbed::shared().await.pause(Duration::from_millis(100)).await;
        }
        panic!("{text:?} does not appear:\n{}", self.screen());
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

#[tokio::test]
async fn an_undo_shows_asks_and_keeps_one_line_up_to_date() {
    let namespace = deployed("web", &["app:never-ready", "app:2"]).await;
    namespace.rolled_out("Deployment", "web").await;
    let terminal = Terminal::open(&namespace).await;
    terminal.types("rollback undo deployment/web -n $N; echo code $?");
    let asked = terminal.shows("[y/N]").await;
    for part in ["context", "server", namespace.name(), "from revision 2 to 1?", "app:never-ready", "app:2"] {
        assert!(asked.contains(part), "{part}:\n{asked}");
    }
    assert!(terminal.tmux(&["capture-pane", "-p", "-e"]).contains("\u{1b}[3"), "the plan is in colour");
    terminal.presses(&["y"]);
    let waiting = terminal.shows(" 2s waiting").await;
    let live: Vec<_> = waiting.lines().filter(|line| line.contains(" 2s waiting")).collect();
    let awaited = "waiting: 1 out of 2 new replicas have been updated";
    assert!(live.len() == 1 && live[0].contains(awaited), "one line says what it waits for:\n{waiting}");
    let readied = async {
        loop {
            for pod in namespace.list("Pod", "app=web").await {
                let is_new = pod["spec"]["containers"][0]["image"] == "app:never-ready";
                if is_new && pod["metadata"]["annotations"]["rollback.test/ready"].is_null() {
                    namespace.set_ready(pod["metadata"]["name"].as_str().unwrap(), true).await;
                }
            }
            Testbed::shared().await.pause(Duration::from_millis(200)).await;
        }
    };
    let ended = tokio::select! {
        screen = terminal.shows("code 0") => screen,
        () = readied => unreachable!("it never ends"),
    };
    assert!(ended.contains("done:") && !ended.contains("waiting:"), "the live line is gone:\n{ended}");
    assert_eq!(image(&namespace, "web").await, "app:never-ready");
}

#[tokio::test]
async fn an_interrupted_question_changes_nothing_and_leaves_the_terminal_whole() {
    let namespace = deployed("web", &["app:1", "app:2"]).await;
    let terminal = Terminal::open(&namespace).await;
    terminal.types("export NO_COLOR=1; rollback undo deployment/web -n $N; echo code $?");
    terminal.shows("[y/N]").await;
    assert!(!terminal.tmux(&["capture-pane", "-p", "-e"]).contains("\u{1b}[3"), "no colour is asked for");
    terminal.presses(&["C-c"]);
    let screen = terminal.shows("code 130").await;
    assert!(screen.contains("interrupted, nothing was changed"), "{screen}");
    assert_eq!(
        terminal.tmux(&["display-message", "-p", "#{cursor_flag}"]).trim(),
        "1",
        "the cursor is shown"
    );
    terminal.types("clear; rollback undo deployment/web -n $N; echo code $?");
    terminal.shows("[y/N]").await;
    terminal.presses(&["n"]);
    let screen = terminal.shows("code 1").await;
    assert!(screen.contains("answered no, nothing was changed"), "{screen}");
    assert_eq!(image(&namespace, "web").await, "app:2");
}

#[tokio::test]
async fn a_shell_completes_names_of_the_cluster_and_revisions() {
    let namespace = deployed("inference-service", &["app:1", "app:2"]).await;
    let terminal = Terminal::open(&namespace).await;
    terminal.types("source <(rollback completions bash)");
    terminal.tmux(&["send-keys", "-l", &format!("rollback plan -n {} deployment/inf", namespace.name())]);
    terminal.presses(&["Tab"]);
    terminal.shows("deployment/inference-service").await;
    terminal.tmux(&["send-keys", "-l", " --to-rev"]);
    terminal.presses(&["Tab"]);
    terminal.shows("--to-revision").await;
    terminal.presses(&["Tab"]);
    terminal.shows("--to-revision 1").await;
    terminal.presses(&["Enter"]);
    terminal.shows("app:2").await;
}

/// What bash is offered for the last of these words.
async fn offered(folder: &Path, words: &[&str]) -> String {
    let args = [&["--", "rollback"], words].concat();
    let mut command = command(Testbed::shared().await.kubeconfig(), &args);
    command.current_dir(folder).env_remove("ROLLBACK_JOURNAL");
    command.env("COMPLETE", "bash").env("_CLAP_IFS", "\n");
    command.env("_CLAP_COMPLETE_INDEX", words.len().to_string());
    finish(command.spawn().unwrap()).await.ok()
}

#[tokio::test]
async fn whom_only_the_runbook_of_a_folder_names_is_not_asked_for_a_key_pressed() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let text = format!(
        "apiVersion: rollback.dev/v1alpha1\nkind: Runbook\ncomponents:\n- {{ name: registry, mlflow: {{ trackingUri: 'http://{address}', model: m }} }}\njournal: {{ sqlite: runs.db }}\n"
    );
    std::fs::write(folder.join("rollback.yaml"), text).unwrap();
    assert!(offered(folder, &["undo", "reg"]).await.contains("registry"), "its names are offered");
    assert!(offered(folder, &["undo", "deploy"]).await.contains("deployment/"), "the whole of a type");
    for words in [&["undo", "model/"][..], &["undo", "registry", "--to-revision", ""], &["show", ""]] {
        offered(folder, words).await;
        assert!(listener.accept().is_err(), "{words:?} asks");
    }
    offered(folder, &["undo", "-f", "rollback.yaml", "model/"]).await;
    assert!(listener.accept().is_ok(), "whoever names it wants it");
    assert!(!folder.join("runs.db").exists(), "nothing is made");
}

#[tokio::test]
async fn kubectl_calls_it_as_a_plugin() {
    let namespace = deployed("web", &["app:1", "app:2"]).await;
    let kubectl = rollback_tests::kubectl().display().to_string();
    let terminal = Terminal::open(&namespace).await;
    terminal.types(&format!("{kubectl} rollback history deployment/web -n $N; echo code $?"));
    let screen = terminal.shows("code 0").await;
    assert!(screen.contains("app:2") && screen.contains("app:1"), "{screen}");
    terminal.types(&format!("clear; {kubectl} rollback undo deployment/none -n $N --yes; echo code $?"));
    terminal.shows("code 1").await;
}
