BEGIN TRANSACTION;
CREATE TABLE entries (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    time TEXT NOT NULL,
    kind TEXT NOT NULL,
    trial INTEGER,
    value TEXT NOT NULL
) STRICT;
CREATE TABLE facts (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
INSERT INTO "facts" VALUES('config','{"name":"golden","metadata":{"sample":"MoS2","operator":"A. Tester","proposal":"P-42","comment":""},"goal":{"kind":"best_picture","score":null,"fraction":0.9},"electrons":12000000.0,"area":{"height":32.0,"width":32.0,"y":null,"x":null},"exploration":{"trials":8,"height":24.0,"width":24.0,"share":0.5,"initial":4},"search":{"step":[0.6,3.0],"defocus":[0.0,800.0],"dose":[300.0,5000.0],"overlap":0.4,"window":0.8},"policy":"botorch","expert":[0.85,500.0],"reconstruction":{"probe_modes":1,"passes":6,"device":"auto","background":true,"refine_probe":true,"calibrate":true,"function":null},"score":{"k_min":0.15,"k_max":1.25,"ring_width":0.05,"field":null,"taper":0.3,"function":null},"mqtt":null,"time_limit":null,"seed":0}');
INSERT INTO "facts" VALUES('description','{"name":"golden column","voltage":80000.0,"semiangle":21.4,"beam_current":null,"detector":{"shape":[8,8],"angular_pixel":1.0,"dtype":"uint16","saturation":65535,"counts_per_electron":1.0,"dead_pixels":[]},"step":{"kind":"continuous","unit":"Å","minimum":0.2,"maximum":5.0,"values":null},"defocus":{"kind":"continuous","unit":"Å","minimum":-1000.0,"maximum":1000.0,"values":null},"dose":{"kind":"continuous","unit":"e/Å²","minimum":1.0,"maximum":1000000.0,"values":null},"electrons_per_pattern":[1.0,1000000.0],"scan_rotation":null,"mirrored":null,"area":{"y":0.0,"x":0.0,"height":300.0,"width":300.0},"repeatable":false,"frame_overhead":0.0,"line_overhead":0.0,"settle_time":0.0,"region_dose_limit":null,"notes":[]}');
INSERT INTO "facts" VALUES('campaign','"golden-000001"');
INSERT INTO "facts" VALUES('link','{"endpoint":"tcp://127.0.0.1:5555","command":["python","-m","sim_instrument"]}');
INSERT INTO "facts" VALUES('versions','{"ptychopilot":"0.1.0"}');
INSERT INTO "facts" VALUES('started','"2026-01-01T00:00:00.000+00:00"');
INSERT INTO "facts" VALUES('state','"running"');
INSERT INTO "facts" VALUES('recommended','{"settings":{"step":1.5,"defocus":200.0,"dose":1000.0},"predicted":4.0,"predicted_sd":0.2,"reason":"best"}');
CREATE TABLE trials (number INTEGER PRIMARY KEY, record TEXT NOT NULL) STRICT;
INSERT INTO "trials" VALUES(1,'{"number":1,"role":"exploration","state":"done","suggestion":{"settings":{"step":1.5,"defocus":200.0,"dose":1000.0},"source":"sobol","reason":"spread evenly","predicted":null,"predicted_sd":null,"constraint":null,"nearest_trial":null,"alternatives":[]},"plan":null,"electrons":100000.0,"score":{"value":3.5,"sd":0.1,"resolution":1.2,"frequency":[0.2],"frc":[0.9],"pairs":[40.0],"deviance":null,"heldout_gain":null,"veto":null},"defocus_measured":null,"reason":"","acquisition_file":null,"reconstruction_file":null,"seconds":{"acquire":1.5}}');
COMMIT;
