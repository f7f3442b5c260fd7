import type { ISettingRegistry } from '@jupyterlab/settingregistry';
import { type ISignal, Signal } from '@lumino/signaling';

/** What tastes differ on: `schema/plugin.json` says what each means. */
export interface IPreferences {
  saveDocument: boolean;
  restoreDocument: boolean;
  keepBeforeRestore: boolean;
  warm: boolean;
  showAutomatic: boolean;
  notifySuccess: boolean;
  undoSeconds: number;
  statusItem: boolean;
  timeline: boolean;
  timelineBar: boolean;
  panelSide: 'left' | 'right';
  panelOrder: 'time' | 'lineage';
}

const DEFAULTS: IPreferences = {
  saveDocument: true,
  restoreDocument: false,
  keepBeforeRestore: true,
  warm: false,
  showAutomatic: true,
  notifySuccess: true,
  undoSeconds: 8,
  statusItem: true,
  timeline: false,
  timelineBar: true,
  panelSide: 'left',
  panelOrder: 'time'
};

/**
 * The user's settings; their defaults until they are loaded, or if they cannot be.
 */
export class Settings {
  /** What holds now. */
  get now(): Readonly<IPreferences> {
    return this.preferences;
  }

  get changed(): ISignal<this, void> {
    return this.hasChanged;
  }

  /** Follow what is set in the settings editor. */
  follow(settings: ISettingRegistry.ISettings): void {
    const read = () => {
      this.preferences = {
        ...DEFAULTS,
        ...(settings.composite as unknown as Partial<IPreferences>)
      };
      this.source = settings;
      this.hasChanged.emit();
    };
    settings.changed.connect(read);
    read();
  }

  /** Set one of them, for good. */
  async set<K extends keyof IPreferences>(
    key: K,
    value: IPreferences[K]
  ): Promise<void> {
    this.preferences = { ...this.preferences, [key]: value };
    this.hasChanged.emit();
    await this.source?.set(key, value);
  }

  private preferences = DEFAULTS;
  private source: ISettingRegistry.ISettings | null = null;
  private readonly hasChanged = new Signal<this, void>(this);
}
