//! Servers that are locked, die, do not know who asks, or are none.

use std::sync::Arc;
use std::time::Duration;

use rollback_core::{
    Components, Engine, ErrorKind, Journal, MemoryJournal, Outcome, Planner, Rollbackable, RunOptions, Target,
};
use rollback_mlflow::{ModelPointer, Registry, RegistryConfig, Stage};
use rollback_tests::{Fault, Matcher, Mlflow, MlflowVersion};
use secrecy::SecretString;
use serde_json::json;

use crate::world::{baseline, champion, options, production, revision, undo};

fn pointer(config: RegistryConfig, model: &str) -> ModelPointer {
    ModelPointer::stage(&Registry::new(config).unwrap(), model, Stage::Production, options()).unwrap()
}

#[tokio::test]
async fn a_locked_database_is_waited_out() {
    let server = Mlflow::start(MlflowVersion::Three, false).await;
    let model = baseline(&server).await;
    let pointer = production(server.url(), &model);
    let locked = server.lock().await;
    let unlock = async {
        // Longer than the server itself waits, so that it answers 503 once.
        tokio::time::sleep(Duration::from_secs(22)).await;
        drop(locked);
    };
    let (report, ()) = tokio::join!(undo(&pointer, revision("4")), unlock);
    let report = report.unwrap();
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    assert!(report.steps[0].attempts > 1, "{report:#?}");
    assert_eq!(server.observe(&model).await["stages"]["4"], "Production");
}

#[tokio::test]
async fn a_server_that_dies_between_two_writes_is_gone_on_with_when_it_is_back() {
    let server = Mlflow::start(MlflowVersion::Three, false).await;
    let model = baseline(&server).await;
    server.stage(&model, "4", "Staging", false).await;
    let before = server.observe(&model).await;
    let there: Arc<dyn Rollbackable> = Arc::new(production(server.url(), &model));
    let plan = Planner::new().rollback("model", there.clone(), revision("4"), &[]).plan().await.unwrap();
    let back = plan.reversed().unwrap();
    assert_eq!(
        undo(&production(server.url(), &model), revision("4")).await.unwrap().outcome,
        Outcome::Completed
    );

    // The way back takes two transitions; the server dies after the first.
    let proxy = server.proxy().await;
    let hold = proxy.hold(Matcher::method("POST").path("transition-stage").nth(2));
    let mut hold = hold;
    let through: Arc<dyn Rollbackable> = Arc::new(production(proxy.url(), &model));
    let (journal, run) = (Arc::new(MemoryJournal::new()), RunOptions::by("ann"));
    let id = run.run;
    // The proxy is another address, so another realm: the plan is made for it.
    let mut steps = back.steps().to_vec();
    for step in &mut steps {
        step.change.realm = through.realm().await.unwrap();
    }
    let back = rollback_core::Plan::new(steps, back.on_failure()).unwrap();
    let engine = Engine::new(journal.clone());
    let components = Components::new().with(through);
    let cancellation = run.cancellation.clone();
    let dies = async {
        hold.reached().await;
        server.kill();
        cancellation.cancel();
        hold.release();
    };
    let (report, ()) = tokio::join!(engine.execute(&back, &components, run), dies);
    assert_eq!(report.unwrap().outcome, Outcome::Unfinished);
    server.restart().await;
    let half = server.observe(&model).await;
    assert_eq!((&half["stages"]["5"], &half["stages"]["4"]), (&json!("Production"), &json!("Production")));
    let report = engine.resume(id, &components, RunOptions::by("ann")).await.unwrap();
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    assert_eq!(server.observe(&model).await, before);
    assert_eq!(journal.runs().await.unwrap().len(), 1);
}

#[tokio::test]
async fn who_is_not_known_or_not_allowed_is_told_what_to_set() {
    for version in [MlflowVersion::Three, MlflowVersion::Two] {
        let server = Mlflow::start(version, true).await;
        let admin = if version == MlflowVersion::Three { "adminpassword12" } else { "password1234" };
        let as_user = |name: Option<&str>, password: &str| {
            let mut config = RegistryConfig::new(server.url());
            config.username = name.map(str::to_owned);
            config.password = Some(SecretString::from(password));
            config
        };
        let nobody = pointer(as_user(None, ""), "m").history().await.unwrap_err();
        let wrong = pointer(as_user(Some("admin"), "wrong"), "m").history().await.unwrap_err();
        for error in [nobody, wrong] {
            assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error:?}");
            assert!(error.hint().unwrap().contains("MLFLOW_TRACKING_USERNAME"), "{error:?}");
        }
        let client = reqwest::Client::new();
        let call = async |path: &str, body: serde_json::Value| {
            let url = format!("{}/api/2.0/mlflow/{path}", server.url());
            let answer = client.post(url).basic_auth("admin", Some(admin)).json(&body).send().await.unwrap();
            assert!(answer.status().is_success(), "{path}: {answer:?}");
        };
        call("registered-models/create", json!({"name": "m"})).await;
        for _ in 0..2 {
            call("model-versions/create", json!({"name": "m", "source": "s3://m/v"})).await;
        }
        let to =
            json!({"name": "m", "version": "2", "stage": "Production", "archive_existing_versions": true});
        call("model-versions/transition-stage", to).await;
        call("users/create", json!({"username": "reader", "password": "readerpassword12"})).await;

        let reader = pointer(as_user(Some("reader"), "readerpassword12"), "m");
        assert_eq!(reader.history().await.unwrap().len(), 2);
        let report = undo(&reader, revision("1")).await.unwrap();
        assert_eq!((report.outcome, report.changed()), (Outcome::Halted, false), "{report:#?}");
        let error = report.steps[0].error.clone().unwrap();
        assert_eq!(error.kind, ErrorKind::PermissionDenied, "{error:?}");
        let report = undo(&pointer(as_user(Some("admin"), admin), "m"), revision("1")).await.unwrap();
        assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    }
}

#[tokio::test]
async fn what_is_no_mlflow_or_does_not_want_this_name_is_told() {
    let server = Mlflow::shared(MlflowVersion::Three).await;
    let model = baseline(server).await;
    let mut away = RegistryConfig::new("http://127.0.0.1:1");
    away.timeout = Duration::from_secs(2);
    let error = pointer(away, &model).history().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    let wrong =
        pointer(RegistryConfig::new(format!("{}/prefix", server.url())), &model).history().await.unwrap_err();
    assert!(
        wrong.kind() == ErrorKind::InvalidConfig && wrong.hint().unwrap().contains("tracking URI"),
        "{wrong:?}"
    );

    let proxy = server.proxy().await;
    let text = json!("Invalid Host header - possible DNS rebinding attack detected");
    proxy.fault(Matcher::any(), Fault::Answer { code: 403, body: text });
    let host = production(proxy.url(), &model).history().await.unwrap_err();
    assert!(host.hint().unwrap().contains("--allowed-hosts"), "{host:?}");
    proxy.clear();
    proxy.fault(Matcher::any(), Fault::Answer { code: 200, body: json!("<html>login</html>") });
    let login = production(proxy.url(), &model).history().await.unwrap_err();
    assert!(login.hint().unwrap().contains("that of an MLflow server"), "{login:?}");
    for body in [
        json!({"error_code": "ENDPOINT_NOT_FOUND", "message": "no such endpoint"}),
        json!("<title>404 Not Found</title><p>The requested URL was not found on the server.</p>"),
    ] {
        proxy.clear();
        let transition = Matcher::method("POST").path("transition-stage");
        proxy.fault(transition, Fault::Answer { code: 404, body });
        let report = undo(&production(proxy.url(), &model), Target::Previous).await.unwrap();
        let error = report.steps[0].error.clone().unwrap();
        assert_eq!((error.kind, report.changed()), (ErrorKind::Unsupported, false), "{error:?}");
        assert!(error.hint.unwrap().contains("--alias"));
    }
}

#[tokio::test]
async fn a_move_whose_answer_is_lost_is_told_in_tags_all_the_same() {
    let server = Mlflow::shared(MlflowVersion::Three).await;
    for pointer in [production, champion] {
        let model = baseline(server).await;
        let proxy = server.proxy().await;
        // The first write that is accepted is the move.
        proxy.fault(Matcher::method("POST"), Fault::DropAccepted);
        let report = undo(&pointer(proxy.url(), &model), revision("4")).await.unwrap();
        assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
        let tags = model_tags(server, &model).await;
        assert!(tags.contains(&report.run.to_string()), "{tags}");
    }
}

#[tokio::test]
async fn what_cannot_be_told_in_tags_does_not_fail_the_move() {
    let server = Mlflow::shared(MlflowVersion::Three).await;
    let model = baseline(server).await;
    let proxy = server.proxy().await;
    let locked = json!({"error_code": "TEMPORARILY_UNAVAILABLE", "message": "database is locked"});
    let tag = || Matcher::method("POST").path("registered-models/set-tag");
    proxy.fault(tag(), Fault::Answer { code: 503, body: locked });
    let report = undo(&production(proxy.url(), &model), revision("4")).await.unwrap();
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    let tried =
        proxy.writes().iter().filter(|write| write.path.contains("registered-models/set-tag")).count();
    assert_eq!((tried, model_tags(server, &model).await.as_str()), (3, "null"));
}

async fn model_tags(server: &Mlflow, model: &str) -> String {
    let known = server.call("GET", "registered-models/get", &json!({"name": model})).await;
    known["registered_model"]["tags"].to_string()
}

#[tokio::test]
async fn a_server_that_speaks_tls_is_trusted_by_its_certificate_or_told_to_be_untrusted() {
    let server = Mlflow::start_tls().await;
    let model = baseline(&server).await;
    let with = |set: &dyn Fn(&mut RegistryConfig)| {
        let mut config = RegistryConfig::new(server.url());
        set(&mut config);
        pointer(config, &model)
    };
    let error = with(&|_| {}).history().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(error.hint().unwrap().contains("MLFLOW_TRACKING_SERVER_CERT_PATH"), "{error:?}");
    let vouched = with(&|config| config.server_cert_path = Some(server.certificate()));
    assert_eq!(undo(&vouched, revision("4")).await.unwrap().outcome, Outcome::Completed);
    let insecure = with(&|config| config.insecure_tls = true);
    assert_eq!(undo(&insecure, revision("5")).await.unwrap().outcome, Outcome::Completed);
    // Of another name than that of its certificate it is another server.
    let mut elsewhere = RegistryConfig::new(server.url().replace("127.0.0.1", "localhost"));
    elsewhere.server_cert_path = Some(server.certificate());
    let error = pointer(elsewhere, &model).history().await.unwrap_err();
    assert!(error.hint().unwrap().contains("by a name that its certificate has"), "{error:?}");
}

#[tokio::test]
async fn credentials_are_sent_as_its_own_client_sends_them() {
    let server = Mlflow::shared(MlflowVersion::Three).await;
    let model = baseline(server).await;
    let cases = [
        (None, None, Some("t0ken")),
        (Some("ann"), Some("hunter2"), Some("t0ken")),
        (Some("ann"), Some("hunter2"), None),
        (Some("ann"), None, Some("t0ken")),
        (Some("ann"), None, None),
        (None, Some("hunter2"), None),
    ];
    for (username, password, token) in cases {
        let proxy = server.proxy().await;
        let mut config = RegistryConfig::new(proxy.url());
        config.username = username.map(str::to_owned);
        config.password = password.map(SecretString::from);
        config.token = token.map(SecretString::from);
        pointer(config, &model).history().await.unwrap();
        let ours = proxy.requests().last().unwrap().authorization.clone();
        proxy.clear();
        let set = |name: &str, value: Option<&str>| {
            value
                .map(|value| format!("os.environ['MLFLOW_TRACKING_{name}'] = '{value}'\n"))
                .unwrap_or_default()
        };
        let script = format!(
            "import os\n{}{}{}other = MlflowClient('{}')\nother.get_registered_model('{model}')\nprint('true')",
            set("USERNAME", username),
            set("PASSWORD", password),
            set("TOKEN", token),
            proxy.url()
        );
        server.python(&script).await;
        let theirs = proxy.requests().last().unwrap().authorization.clone();
        assert_eq!(ours, theirs, "{username:?} {password:?} {token:?}");
    }
}

#[tokio::test]
async fn a_server_that_is_too_slow_is_told_and_a_move_that_came_late_is_found() {
    let server = Mlflow::shared(MlflowVersion::Three).await;
    let model = baseline(server).await;
    let proxy = server.proxy().await;
    let hurried = || {
        let mut config = RegistryConfig::new(proxy.url());
        config.timeout = Duration::from_secs(1);
        pointer(config, &model)
    };
    proxy.fault(Matcher::method("GET"), Fault::Delay(Duration::from_secs(3)));
    let error = hurried().history().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
    proxy.clear();
    // The server does what it is told, and its answer comes too late.
    let mut hold = proxy.hold(Matcher::method("POST").path("transition-stage").nth(1));
    let slow = hurried();
    let (report, ()) = tokio::join!(undo(&slow, revision("4")), async {
        hold.reached().await;
        // Who has given up looks what became of it.
        let seen = proxy.requests().len();
        while proxy.requests().len() == seen {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        hold.release();
    });
    let report = report.unwrap();
    assert_eq!(report.outcome, Outcome::Completed, "{report:#?}");
    assert_eq!(server.observe(&model).await["stages"]["4"], "Production");
}
